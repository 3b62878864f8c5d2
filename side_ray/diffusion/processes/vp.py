"""The variance-preserving process, α_t = √ᾱ_t and σ_t = √(1−ᾱ_t), of a diffusers scheduler."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from side_ray.diffusion.noise_process import alpha_bar_at, alphas_cumprod
from side_ray.diffusion.processes.base import NoiseProcess, Pair

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


class VariancePreserving(NoiseProcess):
    """The process of a `DDPMScheduler`, whose `prediction_type` says what the network outputs.

    Without `rescale_betas_zero_snr`, ε̂ is what a model gives and ẑ₀ comes from it: the images of existing runs depend on the
    order of these operations to the last bit. With it α_T = 0, and ẑ₀ is computed from v or x₀ itself.
    """

    def __init__(self, schedule: "DDPMScheduler") -> None:
        self.schedule, self.config = schedule, schedule.config
        self.alphas_cumprod = alphas_cumprod(schedule)
        self.zero_snr = bool(self.alphas_cumprod[-1] == 0)
        """Whether α = 0 at the last time."""
        if not self.zero_snr:
            self.guided_from = 0.0

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha_bar = alpha_bar_at(self.alphas_cumprod, t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def level(self, t: float) -> tuple[float, float]:
        alpha_bar = float(self.alphas_cumprod[int(t)])
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)

    def visited(self, steps: int) -> list[float]:
        raise NotImplementedError("the samplers space the timesteps of these schedules themselves")

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config["prediction_type"] == "sample":
            return output, (z_t - signal * output) / sigma
        if self.config["prediction_type"] == "v_prediction":
            return signal * z_t - sigma * output, sigma * z_t + signal * output
        return (z_t - sigma * output) / signal, output

    def guided(
        self, z_t: torch.Tensor, z0: torch.Tensor, eps: torch.Tensor, term: torch.Tensor, level: Pair
    ) -> torch.Tensor:
        """The same as ε ← ε − σ·term (Dhariwal & Nichol 2021, Algorithm 2)."""
        signal, sigma = level
        return (z_t - sigma * (eps - sigma * term)) / signal

    def save(self, directory: Path) -> None:
        self.schedule.save_pretrained(directory)
