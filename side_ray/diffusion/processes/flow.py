"""Flow matching (Lipman et al. 2023; rectified flow): α = 1 − σ, and the network outputs the velocity v = ε − z₀.

So ẑ₀ = z − σ·v and ε̂ = z + (1 − σ)·v, both defined at σ = 1, where the first step is (diffusers'
`FlowMatchEulerDiscreteScheduler`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from side_ray.diffusion.processes.library import LibraryProcess
from side_ray.errors import UserError


class Flow(LibraryProcess):
    """σ = (t + 1) / T, and the network is told σ·T."""

    scheduler = FlowMatchEulerDiscreteScheduler

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        for name in ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"):
            if self.config.get(name):
                raise UserError(f"the scheduler's {name} is not supported; give a model with a fixed shift")

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = (t.double() + 1) / self.timesteps
        return 1 - sigma, sigma

    def visited(self, steps: int) -> list[float]:
        self.library.set_timesteps(steps)
        return [float(sigma) * self.timesteps - 1 for sigma in self.library.sigmas[:-1]]

    def enter(self, z_t: torch.Tensor, t: float, sigma: float) -> tuple[torch.Tensor, float]:
        return z_t, sigma * self.timesteps

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return z_t - sigma * output, z_t + signal * output
