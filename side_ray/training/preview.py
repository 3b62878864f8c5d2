"""Preview of a DPM during training: a grid of its samples, and how many of them are copies of members."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from side_ray.config import ScoreSection
from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.draw import DrawSettings, draw
from side_ray.diffusion.sampler import sample_seed
from side_ray.images import ImageSet
from side_ray.similarity import similarity_of
from side_ray.statistics.bands import Bands
from side_ray.statistics.probe import probe_ams

GRID = 64
"""Number of samples in a grid. Their noise is the same every time, so two grids differ only by the training between them."""
STREAM = "training"


@dataclass(frozen=True)
class PreviewSpec:
    """How to sample (as the audit does) and what to measure. `probe`: number of samples compared with the members, None = 0, in
    both orientations with `flips`. `repeated`: ids int64 of members that show the same as an earlier one."""

    seed: int
    settings: DrawSettings
    score: ScoreSection
    probe: int | None
    flips: bool
    repeated: np.ndarray


def preview(spec: PreviewSpec, dpm: Dpm, members: Iterable[ImageSet]) -> tuple[dict[str, float], np.ndarray]:
    """The AMS of the probe samples by band (empty without probe), and the grid, uint8 [H, W, C]."""
    seeds = [sample_seed(spec.seed, STREAM, i) for i in range(max(GRID, spec.probe or 0))]
    settings = replace(spec.settings, batch_size=min(spec.settings.batch_size, len(seeds)))
    images = draw(dpm, seeds, settings).images
    measured = {}
    if spec.probe:
        similarity = similarity_of(spec.score)
        bands = Bands.make(spec.score.bands, similarity)
        pieces = (
            (piece.ids[kept], piece.images[kept])
            for piece in members
            for kept in [~np.isin(piece.ids, spec.repeated)]
            if kept.any()
        )
        measured = probe_ams(images[: spec.probe], pieces, similarity, bands, flips=spec.flips)
    return measured, tiled(images[:GRID])


def tiled(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] arranged in a nearly square grid, uint8 [rows · H, columns · W, C]."""
    count, height, width, channels = images.shape
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    grid = np.zeros((rows * columns, height, width, channels), np.uint8)
    grid[:count] = images
    grid = grid.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)
