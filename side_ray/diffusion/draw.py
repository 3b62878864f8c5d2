"""`draw`: the only way in which images are made, for the synthetic set, the conditions, the preview and the cost probe.

A sample is a function of the model, its seed, the settings and the surrogate. The batch size belongs to the settings,
because a network's last bits depend on the number of rows that it sees: every batch is padded to that size, so that one
sample drawn again alone equals the row of its shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from side_ray.config import ExtractSection
from side_ray.diffusion.condition.drawn import PLAIN, Conditioning, Conditions
from side_ray.diffusion.dpm import Dpm, is_latent, latent_shape
from side_ray.diffusion.extrapolation import Extrapolation
from side_ray.diffusion.guidance import Guidance, ModelGuidance
from side_ray.diffusion.processes import process_of
from side_ray.diffusion.sampler import Noise, decoded, sample_latents, target_of
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.base import Sampler
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.diffusion.spaces.view import LatentView, View
from side_ray.images import to_uint8

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The autocast dtype of each `cluster.precision`; None = no autocast."""


class Surrogate(Protocol):
    """What guides a draw, for example `ClassifierSurrogate`."""

    @property
    def num_classes(self) -> int:
        """Classes that targets are drawn from."""
        ...

    @property
    def latents(self) -> LatentStatistics | None:
        """Of a latent model's own samples: they scale what a classifier sees and hold what is guided. None for pixels."""
        ...

    @property
    def sees_images(self) -> bool:
        """Whether the guidance is by a classifier of images also where the model is a latent one."""
        ...

    def guidance(self, targets: torch.Tensor) -> Guidance | ModelGuidance:
        """The guidance of a batch, whose rows are guided to `targets`, int64 [B] on the model's device."""
        ...


@dataclass(frozen=True)
class DrawSettings:
    """How images are drawn: the sampler with its steps, `extract.guidance_interval` and `batch_size`, `cluster.precision`, and
    how a conditional model is conditioned."""

    sampler: Sampler
    guidance_interval: tuple[float, float]
    batch_size: int
    precision: str
    conditioning: Conditioning = PLAIN

    @classmethod
    def of(cls, extract: ExtractSection, precision: str, conditioning: Conditioning = PLAIN) -> Self:
        """The settings of a config's section `extract` and `cluster.precision`."""
        return cls(sampler_of(extract), extract.guidance_interval, extract.batch_size, precision, conditioning)


def sampler_of(extract: ExtractSection) -> Sampler:
    """The sampler that a config's section `extract` asks for."""
    kind = SAMPLERS[extract.sampler]
    return kind(extract.steps, **dict(extract.options(kind.Options)))


@dataclass(frozen=True)
class Drawn:
    """The images of N seeds.

    images: uint8 [N, H, W, C].
    latents: float32 [N, c, h, w], the z_0 that a latent model's images are decoded from; None for any other model.
    targets: int64 [N], the surrogate's class that each image was guided to; None without a surrogate's classes.
    classes: int64 [N], the class that a class-conditional model was given; None for any other model.
    prompts: the N prompts that a text-conditioned model was given; None for any other model.
    batch_size: the batch size at the end, below the settings' where the device ran out of memory.
    note: what is unusual about the draw, for people; empty if nothing is.
    """

    images: NDArray[np.uint8]
    latents: NDArray[np.float32] | None
    targets: NDArray[np.int64] | None
    classes: NDArray[np.int64] | None
    prompts: list[str] | None
    batch_size: int
    note: str


def draw(
    model: Dpm,
    seeds: Sequence[int],
    settings: DrawSettings,
    surrogate: Surrogate | Extrapolation | None = None,
    *,
    batch_size: int | None = None,
) -> Drawn:
    """Draw one image per seed, in batches, each padded to one size.

    Where the device runs out of memory the batch is halved and the draw continues; the `note` then says so.

    Args:
        model: the diffusion model, on the device to sample on.
        seeds: N ≥ 1 seeds (`sample_seed`). From each come the noise, the target and the model's own class.
        settings: how to sample.
        surrogate: what guides the images, λ included; None draws plain samples (λ = 0). A base model has no targets.
        batch_size: the batch size to begin with, that of an earlier draw which ran out of memory; None = the settings'.

    Raises:
        torch.OutOfMemoryError: not even one image fits the device.
        UserError, RunError: see `sample_latents` and `Conditioning.check`.
        ValueError: a latent model is guided without statistics of its latents.
    """
    seeds, size = list(seeds), batch_size or settings.batch_size
    targets = None
    if surrogate is not None and not isinstance(surrogate, Extrapolation):
        targets = np.array([target_of(seed, surrogate.num_classes) for seed in seeds], np.int64)
    conditions = settings.conditioning.drawn(model, seeds)
    parts: list[NDArray[np.uint8]] = []
    latents: list[NDArray[np.float32]] = []
    start = 0
    while start < len(seeds):
        # Padded by repeating the last row: a network's last bits depend on how many rows it sees.
        rows = np.minimum(np.arange(start, start + size), len(seeds) - 1)
        try:
            z = _batch(model, [seeds[row] for row in rows], _rows(targets, rows), conditions, rows, settings, surrogate)
            images = decoded(model, z)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            continue
        parts.append(to_uint8(images[: len(seeds) - start]))
        if is_latent(model):
            latents.append(z[: len(seeds) - start].float().cpu().numpy())
        start += size
    note = ""
    if size < settings.batch_size:
        note = f"sampled {size} at a time instead of {settings.batch_size}: the device ran out of memory"
    found = np.concatenate(latents) if latents else None
    return Drawn(np.concatenate(parts), found, targets, conditions.classes, conditions.prompts, size, note)


def _batch(
    model: Dpm,
    seeds: list[int],
    targets: torch.Tensor | None,
    conditions: Conditions,
    rows: NDArray[np.int64],
    settings: DrawSettings,
    surrogate: Surrogate | Extrapolation | None,
) -> torch.Tensor:
    """One batch of z_0, float32 [B, c, h, w]."""
    device, dtype = model.device, PRECISIONS[settings.precision]
    given, free = settings.conditioning.batch(model, conditions, rows)
    guidance: Guidance | ModelGuidance | None = None
    statistics, interval = None, settings.guidance_interval
    if isinstance(surrogate, Extrapolation):
        # The base encodes prompts itself: its text encoder may be another.
        own = settings.conditioning.given(surrogate.base, conditions, rows)
        statistics, guidance, interval = surrogate.latents, surrogate.guidance(own), surrogate.within()
    elif surrogate is not None and targets is not None:
        statistics = getattr(surrogate, "latents", None)
        guidance = surrogate.guidance(targets.to(device))
        if not isinstance(guidance, ModelGuidance):
            guidance = _view(model, statistics, surrogate).guidance(guidance)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        return sample_latents(
            model,
            Noise(seeds, latent_shape(model)),
            settings.sampler,
            guidance=guidance,
            guidance_interval=interval,
            class_labels=given,
            free=free,
            latents=statistics,
        )


def _view(model: Dpm, statistics: LatentStatistics | None, surrogate: Surrogate) -> View | LatentView:
    """What the surrogate's classifier sees."""
    if not is_latent(model):
        return View.of(model)
    if statistics is None:
        raise ValueError("a latent model is guided with statistics of its latents")
    return View.of(model) if surrogate.sees_images else LatentView(process_of(model.schedule), statistics)


def _rows(values: NDArray[np.int64] | None, rows: NDArray[np.int64]) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values[rows])
