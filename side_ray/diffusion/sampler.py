"""The sampler's loop, with or without guidance, and what a sample's seed determines: its noise and its target.

Guidance has one form for all samplers, so that λ means the same everywhere: ε̂ = ε − √(1−ᾱ_t)·λ·∇ₓ log p_t(y|x_t)
(Dhariwal & Nichol 2021, Algorithm 2). After it, x̂₀ = (x_t − √(1−ᾱ_t)·ε̂) / √ᾱ_t is clamped to the range of pixels, and the
samplers re-derive ε from the clamped x̂₀. Without this, guidance pushes x̂₀ out of range step by step and the error
accumulates. The model and the classifier are given the *original* timestep index, however few steps a sampler visits.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.guidance import Guidance
from side_ray.diffusion.samplers.base import Sampler
from side_ray.diffusion.spaces.bounds import Bounds
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
        shape: (C, H, W) of one image.
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


def sample(
    dpm: Dpm,
    noise: Noise,
    sampler: Sampler,
    *,
    guidance: Guidance | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw one image per row of `noise`.

    Args:
        dpm: the diffusion model; it is evaluated without autograd.
        noise: the rows' random streams, of the model's image shape.
        sampler: which timesteps are visited and how x moves from one to the next (`samplers`).
        guidance: (x_t, t) → λ·∇ₓ log p_t(y|x_t) float32 [B, C, H, W]; None draws plain samples (λ = 0).
        guidance_interval: guide only while start ≤ t/T < end, in fractions of the T original timesteps (0 is the image,
            1 the noise). Outside of it `guidance` is not evaluated.
        class_labels: int64 [B] for a class-conditional model; guidance is added on top of the condition.

    Returns:
        x̂₀, float32 [B, C, H, W], on the model's device; pixels are in [−1, 1], colours outside of it come from a model that
        does not clip.

    Raises:
        UserError: the sampler cannot take its number of steps on this noise schedule.
        RunError: an image came out as NaN (broken weights, or a guidance gradient that overflowed).
    """
    visited = sampler.visited_timesteps(dpm.schedule)
    advance = sampler.begin(dpm.schedule, noise.normal)
    codec = getattr(dpm, "codec", None)  # kinds from outside of the package may have none
    bounded = Bounds.of(dpm.schedule, codec)
    start, end = (fraction * dpm.num_train_timesteps for fraction in guidance_interval)

    x = noise.normal().to(dpm.device)
    with torch.no_grad():
        for k, timestep in enumerate(visited):
            alpha_bar = float(dpm.alphas_cumprod[timestep])
            signal, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
            t = torch.full((len(x),), timestep, dtype=torch.int64, device=dpm.device)
            eps = dpm.eps(x, t, class_labels)
            x0 = plain = (x - sigma * eps) / signal
            if guidance is not None and start <= timestep < end:
                x0 = (x - sigma * (eps - sigma * guidance(x, t))) / signal
            x = advance(x, bounded(x0, plain), k)
    if not bool(torch.isfinite(x).all()):
        raise RunError("sampling ended in NaN: the model's weights are broken, or a guidance gradient overflowed")
    return x if codec is None else codec.decode(x)
