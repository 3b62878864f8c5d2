"""The sampler's loop, with or without guidance, and what a sample's seed determines: its noise and its target.

Everything is said as z_t = α_t·z_0 + σ_t·ε, whatever the noise process and whatever the network outputs. Guidance has one form
for all samplers, so that λ means the same everywhere: λ·∇ log p_t(y|z_t) is added to the score, which adds
σ²/α·λ·∇ log p_t(y|z_t) to ẑ₀. This is ε̂ = ε − σ·λ·∇ log p_t(y|z_t) (Dhariwal & Nichol 2021, Algorithm 2). After it ẑ₀ is
clamped to the range of pixels, or of a latent model's own samples, and the samplers re-derive ε from the clamped ẑ₀. Without
this, guidance pushes ẑ₀ out of range step by step and the error accumulates. The model and the classifier are given the
*original* timestep, however few steps a sampler visits.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from side_ray.diffusion.condition import FreeGuidance
from side_ray.diffusion.dpm import Denoised, Dpm
from side_ray.diffusion.guidance import Guidance, ModelGuidance
from side_ray.diffusion.processes import process_of
from side_ray.diffusion.samplers.base import Sampler
from side_ray.diffusion.spaces.bounds import Bounds
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.errors import RunError


def sample_seed(run_seed: int, stream: str, i: int) -> int:
    """The seed of sample `i` of a stream (`synthetic` or `extract`): 63 bits, the same in every condition of a run."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{stream}/{i}".encode()).digest()[:8], "big") >> 1


def target_of(seed: int, classes: int) -> int:
    """The class, uniform over 0 … classes−1, that the sample with this seed is guided to."""
    return seed % classes


class Noise:
    """Gaussian noise for a batch, each row from a random stream of its own.

    A row's numbers depend on its seed alone: not on its batch, the device, or the torch version. The first call gives
    x_T, each later one the noise of the next stochastic step. The generator is numpy's Philox keyed with the whole seed
    (torch's CPU generator keeps 32 bits of it).

    Args:
        seeds: one per row, 0 ≤ seed < 2¹²⁸.
        shape: (c, h, w) of what the model diffuses, for pixels that of one image.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self.shape = (len(seeds), *shape)
        self._streams = [np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds]

    def normal(self) -> torch.Tensor:
        """The next standard normal draw of every row, float32 [B, C, H, W] on the CPU."""
        rows = np.empty(self.shape, np.float32)
        for row, stream in zip(rows, self._streams, strict=True):
            stream.standard_normal(out=row, dtype=np.float32)
        return torch.from_numpy(rows)


def sample(dpm: Dpm, noise: Noise, sampler: Sampler, **settings: Any) -> torch.Tensor:
    """Draw one image per row of `noise`: what `sample_latents` draws, decoded.

    Returns:
        x̂₀, float32 [B, C, H, W], on the model's device; pixels are in [−1, 1], colours outside of it come from a model that
        does not clip. Other arguments and errors are those of `sample_latents`.
    """
    return decoded(dpm, sample_latents(dpm, noise, sampler, **settings))


def decoded(dpm: Dpm, z: torch.Tensor) -> torch.Tensor:
    """The images [B, C, H, W] of z_0 [B, c, h, w]."""
    codec = getattr(dpm, "codec", None)  # kinds from outside may have none
    return z if codec is None else codec.decode(z)


def sample_latents(
    dpm: Dpm,
    noise: Noise,
    sampler: Sampler,
    *,
    guidance: Guidance | ModelGuidance | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    class_labels: torch.Tensor | None = None,
    free: FreeGuidance | None = None,
    latents: LatentStatistics | None = None,
) -> torch.Tensor:
    """Draw one z_0 per row of `noise`; for a model of pixels in [−1, 1] that is the image.

    Args:
        dpm: the diffusion model; it is evaluated without autograd.
        noise: the rows' random streams, of the shape that the model diffuses.
        sampler: which timesteps are visited and how x moves from one to the next (`samplers`).
        guidance: (x_t, t) → λ·∇ₓ log p_t(y|x_t) float32 [B, C, H, W], or another model; None draws plain samples (λ = 0).
        guidance_interval: guide only while start ≤ t/T < end, in fractions of the T original timesteps (0 is the image,
            1 the noise). Outside of it `guidance` is not evaluated.
        class_labels: int64 [B] for a class-conditional model, conditions of prompts float32 [B, L, D] for a text-conditioned one;
            guidance is added on top of the condition.
        free: classifier-free guidance of that condition; None = none. What it makes counts as unguided below.
        latents: of a latent model's own samples; they hold the guided ẑ₀.

    Returns:
        ẑ₀, float32 [B, c, h, w], on the model's device.

    Raises:
        UserError: the sampler cannot take its number of steps on this noise schedule.
        RunError: an image came out as NaN (broken weights, or a guidance gradient that overflowed).
    """
    visited = sampler.visited_timesteps(dpm.schedule)
    advance = sampler.begin(dpm.schedule, noise.normal)
    process = process_of(dpm.schedule)
    bounded = Bounds.of(dpm.schedule, getattr(dpm, "codec", None), latents)
    start, end = (fraction * process.timesteps for fraction in guidance_interval)

    x = process.first(noise.normal()).to(dpm.device)
    with torch.no_grad():
        for k, time in enumerate(visited):
            level = process.level(time)
            own, eps = denoised(dpm, x, time, level, class_labels)
            z0 = own
            if free is not None:
                z0, eps = free((own, eps), denoised(dpm, x, time, level, free.null))
            guided = z0
            if isinstance(guidance, ModelGuidance):
                if start <= time < end:
                    guided = z0 + guidance.shift(x, time, class_labels, own)
            elif guidance is not None and start <= time < end and level[0] >= process.guided_from:
                t = torch.full((len(x),), time, dtype=time_dtype(time), device=dpm.device)
                guided = process.guided(x, z0, eps, guidance(x, t), level)
            x = advance(x, bounded(guided, z0), k)
    if not bool(torch.isfinite(x).all()):
        raise RunError("sampling ended in NaN: the model's weights are broken, or a guidance gradient overflowed")
    return x


def denoised(
    dpm: Dpm, x: torch.Tensor, time: float, level: tuple[float, float], class_labels: torch.Tensor | None
) -> Denoised:
    """(ẑ₀, ε̂) of a model, also of one from outside of the package that only gives ε̂."""
    if hasattr(dpm, "denoise"):
        return dpm.denoise(x, time, class_labels)
    eps = dpm.eps(x, torch.full((len(x),), int(time), device=dpm.device), class_labels)
    return (x - level[1] * eps) / level[0], eps


def time_dtype(time: float) -> torch.dtype:
    """Of a classifier's times: whole for the timesteps of variance-preserving models."""
    return torch.int64 if isinstance(time, int) else torch.float32
