"""The density of a DPM, by its probability-flow ODE and Hutchinson's estimate of the divergence.

In x̃ = x_t/sqrt(ᾱ_t) and σ = sqrt((1−ᾱ_t)/ᾱ_t) the flow is dx̃/dσ = ε̂(x_t, t) (Song, Meng & Ermon 2021, Eq. 14), and along it
d log p/dσ = −∇·ε̂ (Song et al. 2021, Eq. 39). It starts at the sampler's prior, x_T ~ N(0, I), and ends at the lowest
noise level of the model, σ_0 (t = 0), or earlier. So p_θ is the distribution of the deterministic sampler without its clamp
of x̂₀ to [−1, 1]. Its density is over images in [−1, 1]^d, in nats.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from side_ray.diffusion.dpm import VariancePreservingDpm
from side_ray.diffusion.noise_process import log_sigma, timestep_at
from side_ray.diffusion.sampler import Noise

Divergence = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ε̂ [B, C, H, W], the x that it was computed from, with autograd) → ∇ₓ·ε̂, float64 [B]."""


class Hutchinson:
    """Tr J as the mean of vᵀJv over random signs v, drawn anew at every evaluation so that their errors average out.

    Args:
        seeds: one per row; a row's signs depend on its seed alone.
        probes: vectors v per evaluation, each a backward pass.
    """

    def __init__(self, seeds: Sequence[int], probes: int = 1) -> None:
        self.probes = probes
        self._streams = [np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds]

    def __call__(self, eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for probe in range(self.probes):
            signs = np.stack([stream.integers(0, 2, x.shape[1:], dtype=np.int8) for stream in self._streams])
            v = torch.from_numpy(2 * signs - 1).to(eps)
            (product,) = torch.autograd.grad(eps, x, v, retain_graph=probe + 1 < self.probes)
            total += (product.double() * v.double()).flatten(1).sum(1)
        return total / self.probes


def exact_divergence(eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Tr J by as many backward passes as x has dimensions."""
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    dimension = eps[0].numel()
    for i in range(dimension):
        (row,) = torch.autograd.grad(eps.flatten(1)[:, i].sum(), x, retain_graph=i + 1 < dimension)
        total += row.flatten(1)[:, i].double()
    return total


def log_likelihood(
    dpm: VariancePreservingDpm,
    x: torch.Tensor,
    *,
    steps: int,
    divergence: Divergence,
    variance: float = 0.0,
    class_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """log p_θ(x), by integrating the flow from the image to the noise.

    The flow is smooth where x has the noise that the model expects. Far from there it is in a tail of the density and jumps
    from one training image to the next. So the variance of the noise on x must be given.

    Args:
        dpm: the diffusion model, evaluated 4 · `steps` times.
        x: [B, C, H, W], images in [−1, 1] with Gaussian noise on them.
        steps: Runge–Kutta steps of fourth order, equally long in log σ.
        divergence: a `Hutchinson` or `exact_divergence`.
        variance: of the noise on x; p_θ is the density of the model's images with this noise. At least the model's own σ_0².
        class_labels: int64 [B] for a class-conditional U-Net; the density is then p_θ(x|y).

    Returns:
        float64 [B], nats.
    """
    levels = log_sigma(dpm.alphas_cumprod)
    start = max(float(levels[0]), 0.5 * math.log(variance) if variance > 0 else -math.inf)
    noise, integral = _flow(dpm, x.double(), start, float(levels[-1]), steps, divergence, class_labels)
    return _log_prior(dpm, noise) + integral


def draw(
    dpm: VariancePreservingDpm,
    noise: Noise,
    *,
    steps: int,
    divergence: Divergence,
    class_labels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample of p_θ per row of `noise`, and its density, by integrating the flow from the noise to the image.

    Returns:
        x float64 [B, C, H, W], and log p_θ(x) float64 [B], nats. Other arguments are those of `log_likelihood`.
    """
    levels = log_sigma(dpm.alphas_cumprod)
    start = noise.normal().double().to(dpm.device) / dpm.alphas_cumprod[-1].sqrt()
    x, integral = _flow(dpm, start, float(levels[-1]), float(levels[0]), steps, divergence, class_labels)
    return x, _log_prior(dpm, start) - integral


def _log_prior(dpm: VariancePreservingDpm, noise: torch.Tensor) -> torch.Tensor:
    """log density of x̃_T, which is N(0, I/ᾱ_T)."""
    precision = float(dpm.alphas_cumprod[-1])
    squares = (noise.flatten(1) ** 2).sum(1)
    return -0.5 * precision * squares - 0.5 * noise[0].numel() * math.log(2 * math.pi / precision)


def _flow(
    dpm: VariancePreservingDpm,
    x: torch.Tensor,
    start: float,
    end: float,
    steps: int,
    divergence: Divergence,
    class_labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x̃ float64 [B, C, H, W] carried from log σ = `start` to `end`, and ∫ ∇·ε̂ dσ on the way, float64 [B]."""

    def slope(x: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """d/d log σ of x̃ and of the integral."""
        sigma = math.exp(level)
        signal = 1 / math.hypot(1, sigma)
        t = torch.full((len(x),), timestep_at(dpm.alphas_cumprod, level), dtype=torch.float64, device=x.device)
        with torch.enable_grad():
            x_t = (signal * x).detach().requires_grad_(True)
            eps = dpm.differentiable_eps(x_t, t, class_labels)
            trace = divergence(eps, x_t)
        return sigma * eps.detach().double(), sigma * signal * trace

    h = (end - start) / steps
    integral = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for k in range(steps):
        level = start + k * h
        x1, i1 = slope(x, level)
        x2, i2 = slope(x + h / 2 * x1, level + h / 2)
        x3, i3 = slope(x + h / 2 * x2, level + h / 2)
        x4, i4 = slope(x + h * x3, level + h)
        x = x + h / 6 * (x1 + 2 * x2 + 2 * x3 + x4)
        integral = integral + h / 6 * (i1 + 2 * i2 + 2 * i3 + i4)
    return x, integral
