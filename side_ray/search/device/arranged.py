"""The training images of a device as codes, in the order in which they are multiplied."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from side_ray.search.device.products import SHIFT, Encoder, Precision
from side_ray.search.neighbors import Metric

GROUP = 32
"""Training images of which only the largest product is looked at first."""
ELEMENTS = 2**24
"""Feature elements that are prepared at a time."""


class Arranged(NamedTuple):
    """Codes of n training images. For l2 they are ordered by norm, so that one norm nearly stands for a group."""

    encoder: Encoder
    codes: torch.Tensor
    """[N, D], N = n padded to a multiple of `GROUP` by repeating the last image."""
    order: torch.Tensor
    """int64 [N], the training row of each."""
    scale: float
    longest: float
    """The largest length of a training image."""
    most_lost: float
    """The largest of what the codes of one lack."""
    norms: torch.Tensor | None
    """‖x‖² of each, of the type of the scores; None for ip."""


def arrange(features: torch.Tensor, metric: Metric, precision: Precision) -> Arranged:
    """Encode features float32 [n, d]."""
    encoder = Encoder(precision, _center(features, metric, precision))
    scale = encoder.scale_for(max(float(encoder.centred(block).abs().amax()) for block in _blocks(features)))
    order, norms = torch.arange(len(features), device=features.device), None
    if metric == "l2":
        squares = torch.cat([encoder.centred(block).double().square().sum(dim=1) for block in _blocks(features)])
        order = torch.argsort(squares)
        norms = _padded(squares[order].to(encoder.score_dtype))
    order = _padded(order)
    parts = [encoder.encode(features[rows], scale) for rows in order.split(max(1, ELEMENTS // features.shape[1]))]
    longest = max(float(part.squares.amax()) for part in parts) ** 0.5
    most_lost = max(float(part.lost.amax()) for part in parts)
    return Arranged(encoder, torch.cat([part.codes for part in parts]), order, scale, longest, most_lost, norms)


def _blocks(features: torch.Tensor) -> Iterator[torch.Tensor]:
    return iter(features.split(max(1, ELEMENTS // features.shape[1])))


def _padded(row: torch.Tensor) -> torch.Tensor:
    return torch.cat([row, row[-1:].expand(-len(row) % GROUP)])


def _center(features: torch.Tensor, metric: Metric, precision: Precision) -> torch.Tensor | None:
    if metric == "ip":
        return None
    if precision == "int8":
        return torch.full_like(features[0], SHIFT)
    total = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in _blocks(features)]).sum(dim=0)
    # Whole numbers keep pixel values exact.
    return (total / len(features)).round().float()
