"""The training images of a device as codes, in the order in which they are multiplied."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from side_ray.search.device.products import SHIFT, Encoder, Precision
from side_ray.search.neighbors import Metric

GROUP = 32
"""Training images of which only the largest product is looked at first. A group's images lie one stride apart: reductions along
the last dimension take a GPU several times as long."""
COLUMNS = {"cuda": 2**16, "cpu": 2**12}
"""Training images that queries are multiplied with at a time, at most; a multiple of `GROUP`."""
ELEMENTS = 2**24
"""Feature elements that are prepared at a time."""


class Arranged(NamedTuple):
    """Codes of n training images. For l2 the images of a group are alike in norm, so that one norm nearly stands for all."""

    encoder: Encoder
    codes: torch.Tensor
    """[N, D], N = n padded to a multiple of `GROUP` by repeating the last image."""
    order: torch.Tensor
    """int64 [N], the training row of each."""
    real: torch.Tensor
    """bool [N], False for the repetitions."""
    repeated: torch.Tensor
    """int64, the columns that are none, all in the last step."""
    step: int
    """Columns that are multiplied at a time."""
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
    total, step, norms = len(features), COLUMNS[features.device.type], None
    # The rank of each column: columns of one group have neighbouring ranks.
    ranks = torch.arange(-(-total // GROUP) * GROUP, device=features.device)
    ranks = torch.cat([part.view(-1, GROUP).T.reshape(-1) for part in ranks.split(step)])
    real, ranks = ranks < total, ranks.clamp(max=total - 1)
    order = ranks
    if metric == "l2":
        squares = torch.cat([encoder.centred(block).double().square().sum(dim=1) for block in _blocks(features)])
        order = torch.argsort(squares)[ranks]
        norms = squares[order].to(encoder.score_dtype)
    parts = [encoder.encode(features[rows], scale) for rows in order.split(max(1, ELEMENTS // features.shape[1]))]
    longest = max(float(part.squares.amax()) for part in parts) ** 0.5
    most_lost = max(float(part.lost.amax()) for part in parts)
    codes = torch.cat([part.codes for part in parts])
    return Arranged(encoder, codes, order, real, (~real).nonzero()[:, 0], step, scale, longest, most_lost, norms)


def _blocks(features: torch.Tensor) -> Iterator[torch.Tensor]:
    return iter(features.split(max(1, ELEMENTS // features.shape[1])))


def _center(features: torch.Tensor, metric: Metric, precision: Precision) -> torch.Tensor | None:
    if metric == "ip":
        return None
    if precision == "int8":
        return torch.full_like(features[0], SHIFT)
    total = torch.stack([block.sum(dim=0, dtype=torch.float64) for block in _blocks(features)]).sum(dim=0)
    # Whole numbers keep pixel values exact.
    return (total / len(features)).round().float()
