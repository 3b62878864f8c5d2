"""Float64 values of single pairs on a device, to the last bit those of `search.exact.values_of_pairs`."""

from typing import NamedTuple, Self

import numpy as np
import torch

from side_ray.search.neighbors import Metric

ELEMENTS = 2**24
"""Features that are converted to float64 at a time (128 MiB)."""
LEAF = 128
"""Elements that numpy's pairwise summation adds in one loop."""


class Pairs(NamedTuple):
    """Pairs of queries of the block and training images, the latter by their place in `Arranged`."""

    rows: torch.Tensor
    columns: torch.Tensor
    scores: torch.Tensor

    def where(self, kept: torch.Tensor) -> Self:
        return type(self)(*(each[kept] for each in self))


def values_of_pairs(
    queries: torch.Tensor, train: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, metric: Metric
) -> torch.Tensor:
    """float64 [m], values of float32 queries[rows] and train[columns]; see `search.exact`."""
    values = torch.empty(len(rows), dtype=torch.float64, device=train.device)
    step = max(1, ELEMENTS // train.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        terms, other = train.index_select(0, columns[part]), queries.index_select(0, rows[part]).double()
        # In float64, as one of the two is.
        terms = terms * other if metric == "ip" else (terms - other).square_()
        values[part] = pairwise_sum(terms)
    return values.clamp_(-1.0, 1.0) if metric == "ip" else roots(values)


def roots(squares: torch.Tensor) -> torch.Tensor:
    """Square roots of float64 values, rounded correctly: CUDA's are, those of torch's MKL are not always."""
    return squares.sqrt() if squares.is_cuda else torch.from_numpy(np.sqrt(squares.numpy()))


def pairwise_sum(terms: torch.Tensor) -> torch.Tensor:
    """Sums over the last dimension in the order of `numpy.sum` for contiguous rows.

    Each addition is a float64 addition of its own, which IEEE 754 defines to the last bit on every device.
    """
    size = terms.shape[-1]
    if size < 8:
        return _in_turn(torch.zeros_like(terms[..., 0]), terms)
    if size <= LEAF:
        whole = size - size % 8
        lanes = terms[..., :8]
        for start in range(8, whole, 8):
            lanes = lanes + terms[..., start : start + 8]
        pairs = lanes[..., 0::2] + lanes[..., 1::2]
        fours = pairs[..., 0::2] + pairs[..., 1::2]
        return _in_turn(fours[..., 0] + fours[..., 1], terms[..., whole:])
    half = size // 2
    half -= half % 8
    if 2 * half == size:
        both = pairwise_sum(terms.unflatten(-1, (2, half)))
        return both[..., 0] + both[..., 1]
    return pairwise_sum(terms[..., :half]) + pairwise_sum(terms[..., half:])


def _in_turn(total: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    for column in range(terms.shape[-1]):
        total = total + terms[..., column]
    return total
