"""Preview of a DPM during training: a grid of its samples, and how many of them are copies of members."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from side_ray.config import ExtractSection, ScoreSection
from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.sampler import Noise, sample, sample_seed, target_of
from side_ray.images import ImageSet, to_uint8
from side_ray.similarity.registry import similarity_of
from side_ray.statistics.bands import Bands
from side_ray.statistics.probe import probe_ams

GRID = 64
"""Number of samples in a grid. Their noise is the same every time, so two grids differ only by the training between them."""
STREAM = "training"


@dataclass(frozen=True)
class PreviewSpec:
    """How to sample (as the audit does) and what to measure. `probe`: number of samples compared with the members, None = 0."""

    seed: int
    extract: ExtractSection
    score: ScoreSection
    probe: int | None


def preview(spec: PreviewSpec, dpm: Dpm, members: Iterable[ImageSet]) -> tuple[dict[str, float], np.ndarray]:
    """The AMS of the probe samples by band (empty without probe), and the grid, uint8 [H, W, C]."""
    images = _samples(spec, dpm, max(GRID, spec.probe or 0))
    measured = {}
    if spec.probe:
        similarity = similarity_of(spec.score)
        bands = Bands.make(spec.score.bands, similarity.name, similarity.larger_is_closer)
        pieces = ((piece.ids, piece.images) for piece in members)
        measured = probe_ams(images[: spec.probe], pieces, similarity, bands)
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


def _samples(spec: PreviewSpec, dpm: Dpm, count: int) -> np.ndarray:
    seeds = [sample_seed(spec.seed, STREAM, i) for i in range(count)]
    settings, parts = spec.extract, []
    for start in range(0, count, settings.batch_size):
        chosen = seeds[start : start + settings.batch_size]
        labels = None
        if dpm.num_classes is not None:
            labels = torch.tensor([target_of(seed, dpm.num_classes) for seed in chosen], device=dpm.device)
        noise = Noise(chosen, dpm.image_shape)
        images = sample(
            dpm, noise, sampler=settings.sampler, steps=settings.steps, eta=settings.eta, class_labels=labels
        )
        parts.append(to_uint8(images))
    return np.concatenate(parts)
