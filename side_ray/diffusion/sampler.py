"""Drawing images from a DPM, with or without guidance: DDIM, ancestral DDPM and DPM-Solver++.

One form of guidance for all of them, so that λ means the same everywhere: ε̂ = ε − sqrt(1−ᾱ_t)·λ·∇ₓ log p_t(y|x_t)
(Dhariwal & Nichol 2021, Algorithm 2). After it, x̂₀ is clamped to [−1, 1] and ε re-derived from the clamped x̂₀, without
which guidance pushes x̂₀ out of range step by step and the error accumulates. A sampler of few steps hands the
*original* timestep index to the U-Net and to the classifier.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.guidance import Guidance
from side_ray.errors import RunError, UserError

SAMPLERS = ("ddim", "ddpm", "dpmsolver++")
Advance = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(x_t, x̂₀ clamped, k) → x at the timestep that follows the k-th visited one."""


def sample_seed(run_seed: int, stream: str, i: int) -> int:
    """The seed of sample `i` of a stream (`synthetic` or `extract`): 63 bits, the same in every condition of a run."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}/{stream}/{i}".encode()).digest()[:8], "big") >> 1


def target_of(seed: int, classes: int) -> int:
    """The class, uniform over 0 … classes−1, that the sample with this seed is guided to."""
    return seed % classes


class Noise:
    """Gaussian noise for a batch in which every row has a random stream of its own.

    A row's numbers depend on its seed alone: not on the batch it is in, the device, or the torch version. The first
    call gives x_T, each later one the noise of the next stochastic step. The generator is numpy's Philox keyed with
    the whole seed (torch's CPU generator keeps 32 bits of it).

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
    *,
    sampler: str,
    steps: int,
    eta: float = 0.0,
    guidance: Guidance | None = None,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw one image per row of `noise`.

    Args:
        dpm: the diffusion model; it is evaluated without autograd, `steps` times.
        noise: the rows' random streams, of the model's image shape.
        sampler: `ddim` (Song et al. 2021), `ddpm` (ancestral, Ho et al. 2020: the posterior between visited timesteps
            with its `fixed_small` variance, which *is* DDIM at η = 1 once ε is re-derived from the clamped x̂₀) or
            `dpmsolver++` (Lu et al. 2022, second-order multistep, diffusers' own).
        steps: number of timesteps visited, see `visited_timesteps`.
        eta: η of DDIM, 0 (deterministic) … 1. The other samplers do not use it.
        guidance: (x_t, t) → λ·∇ₓ log p_t(y|x_t) float32 [B, C, H, W]; None draws plain samples (λ = 0).
        guidance_interval: guide only while start ≤ t/T < end, in fractions of the T original timesteps (0 is the image,
            1 the noise). Outside of it `guidance` is not evaluated.
        class_labels: int64 [B] for a class-conditional U-Net; guidance then comes on top of the condition.

    Returns:
        x̂₀, float32 [B, C, H, W] in [−1, 1], on the model's device.

    Raises:
        UserError: unknown sampler, or a number of steps that it cannot take on this noise schedule.
        RunError: an image came out as NaN (broken weights, or a guidance gradient that overflowed).
    """
    visited = visited_timesteps(dpm.schedule, sampler, steps)
    if sampler == "dpmsolver++":
        advance = _dpm_solver(dpm.schedule, steps)
    else:
        advance = _ddim(dpm.alphas_cumprod, visited, 1.0 if sampler == "ddpm" else eta, noise)
    start, end = (fraction * dpm.num_train_timesteps for fraction in guidance_interval)

    x = noise.normal().to(dpm.device)
    with torch.no_grad():
        for k, timestep in enumerate(visited):
            alpha_bar = float(dpm.alphas_cumprod[timestep])
            signal, sigma = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
            t = torch.full((len(x),), timestep, dtype=torch.int64, device=dpm.device)
            eps = dpm.eps(x, t, class_labels)
            if guidance is not None and start <= timestep < end:
                eps = eps - sigma * guidance(x, t)
            x0 = ((x - sigma * eps) / signal).clamp(-1, 1)
            x = advance(x, x0, k)
    if not bool(torch.isfinite(x).all()):
        raise RunError("sampling ended in NaN: the model's weights are broken, or a guidance gradient overflowed")
    return x


def visited_timesteps(schedule: DDPMScheduler, sampler: str, steps: int) -> list[int]:
    """The original timestep indices (0 … T−1) that a sampler visits, from noise to image.

    They are those of diffusers' `timestep_spacing="leading"`, its default for pipelines of this kind: for `ddim` and
    `ddpm` multiples of T // steps down to 0; for `dpmsolver++`, whose last step goes to the image itself, multiples of
    T // (steps + 1) without 0.

    Where that would leave out more than a tenth of the range at the noisy end (600 DDIM steps of 1,000 would start at
    599, whose x_t is far from pure noise) the timesteps are spread evenly over all T instead: ⌊k·T/steps⌋, or
    diffusers' `linspace` for `dpmsolver++`.

    Raises:
        UserError: unknown sampler, or a number of steps that it cannot take.
    """
    total = schedule.config["num_train_timesteps"]
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    most = total - 1 if sampler == "dpmsolver++" else total
    if not 2 <= steps <= most:
        raise UserError(f"{sampler} takes 2 to {most} steps on this noise schedule, got {steps}")
    if sampler == "dpmsolver++":
        visited = _solver(schedule, steps).timesteps.tolist()
        if len(set(visited)) < steps:
            raise UserError(f"dpmsolver++ finds no {steps} timesteps on this noise schedule that are not pure noise")
        return visited
    if _leading_covers(total, steps):
        return [k * (total // steps) for k in reversed(range(steps))]
    return [k * total // steps for k in reversed(range(steps))]


def unet_evaluations(sampler: str, steps: int) -> int:
    """U-Net evaluations per image: one per step for each sampler. Guidance evaluates the classifier as often.

    Raises:
        UserError: unknown sampler.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    return steps


def _ddim(alphas_cumprod: torch.Tensor, visited: list[int], eta: float, noise: Noise) -> Advance:
    """Eq. 12 and 16 of Song et al. 2021 between two visited timesteps; beyond the last one ᾱ = 1, so that x = x̂₀."""
    alpha_bars = [float(alphas_cumprod[t]) for t in visited] + [1.0]

    def advance(x: torch.Tensor, x0: torch.Tensor, k: int) -> torch.Tensor:
        now, then = alpha_bars[k], alpha_bars[k + 1]
        eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
        sigma = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
        x = math.sqrt(then) * x0 + math.sqrt(max(1 - then - sigma**2, 0.0)) * eps
        return x + sigma * noise.normal().to(x.device) if sigma > 0 else x

    return advance


def _dpm_solver(schedule: DDPMScheduler, steps: int) -> Advance:
    solver = _solver(schedule, steps)

    def advance(x: torch.Tensor, x0: torch.Tensor, k: int) -> torch.Tensor:
        return solver.step(x0, solver.timesteps[k], x, return_dict=False)[0]

    return advance


def _solver(schedule: DDPMScheduler, steps: int) -> DPMSolverMultistepScheduler:
    """diffusers' solver, told that the model predicts x₀, which is what DPM-Solver++ integrates."""
    total = schedule.config["num_train_timesteps"]
    spacing: dict[str, Any] = {"timestep_spacing": "leading"}
    if not _leading_covers(total, steps + 1):
        # linspace starts at T−1, where a cosine schedule has no signal left; the bound is the one that diffusers advises.
        spacing = {"timestep_spacing": "linspace", "lambda_min_clipped": -5.1}
    betas = schedule.betas.cpu().numpy()
    solver = DPMSolverMultistepScheduler(
        num_train_timesteps=total, trained_betas=betas, prediction_type="sample", **spacing
    )
    solver.set_timesteps(steps)
    return solver


def _leading_covers(total: int, intervals: int) -> bool:
    return total // intervals * intervals >= 0.9 * total
