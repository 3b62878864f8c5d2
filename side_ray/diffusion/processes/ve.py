"""The variance-exploding process (Song et al. 2021): α = 1, σ geometric from `sigma_min` to `sigma_max`.

The network outputs the score s, so ε̂ = −σ·s and ẑ₀ = z + σ²·s (diffusers' `ScoreSdeVeScheduler`). It is sampled by the
deterministic Euler steps of its flow, where the library's own loop is a stochastic predictor-corrector.
"""

import math

import torch

from side_ray.diffusion.processes.library import LibraryProcess


class VarianceExploding(LibraryProcess):
    """t = 0 … T−1 is linear in log σ, and the network is told σ."""

    scheduler = "ScoreSdeVeScheduler"

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = math.log(self.config["sigma_min"]), math.log(self.config["sigma_max"])
        share = t.double() / (self.timesteps - 1)
        return torch.ones_like(share), torch.exp(low + share * (high - low))

    def visited(self, steps: int) -> list[float]:
        return [(steps - 1 - k) * (self.timesteps - 1) / (steps - 1) for k in range(steps)]

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * self.config["sigma_max"]

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return z_t + sigma**2 * output, -sigma * output
