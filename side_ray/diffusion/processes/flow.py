"""Flow matching (Lipman et al. 2023; rectified flow): α = 1 − σ, and the network outputs the velocity v = ε − z₀.

So ẑ₀ = z − σ·v and ε̂ = z + (1 − σ)·v, both defined at σ = 1, where the first step is (diffusers'
`FlowMatchEulerDiscreteScheduler`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from side_ray.diffusion.processes.library import LibraryProcess
from side_ray.errors import UserError


class Flow(LibraryProcess):
    """σ = (t + 1) / T, and the network is told σ·T.

    Args:
        config: its `scheduler_config.json`.
        tokens: N of the transformer for one image, by which a dynamic shift goes (Esser et al. 2024, Section 5.3.2): σ becomes
            e^μ / (e^μ + 1/σ − 1), with μ linear in N.
        even: visited are σ = 1 … 1/steps, as Flux does, instead of the library's 1 … 1/T, before the shift.

    Raises:
        UserError: the scheduler samples in another way, or has a dynamic shift where there are no tokens.
    """

    scheduler = "FlowMatchEulerDiscreteScheduler"

    def __init__(self, config: Mapping[str, Any], tokens: int | None = None, even: bool = False) -> None:
        super().__init__(config)
        for name in ("invert_sigmas", "stochastic_sampling"):
            if self.config.get(name):
                raise UserError(f"the scheduler's {name} is not supported; give a model without it")
        self._even = even
        self._shift: dict[str, float] = {}
        if self.config.get("use_dynamic_shifting"):
            if tokens is None:
                raise UserError(
                    "the scheduler's use_dynamic_shifting goes by the number of a transformer's tokens, and is for Stable "
                    "Diffusion 3 and Flux only; give a model with a fixed shift"
                )
            self._shift = {"mu": self._mu(tokens)}

    def _mu(self, tokens: int) -> float:
        """μ, as diffusers' `calculate_shift`: `base_shift` at `base_image_seq_len` tokens, `max_shift` at `max_image_seq_len`."""
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        fewest, most, low, high = (self.config[name] for name in names)
        slope = (high - low) / (most - fewest)
        return float(tokens * slope + (low - slope * fewest))

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sigma = (t.double() + 1) / self.timesteps
        return 1 - sigma, sigma

    def visited(self, steps: int) -> list[float]:
        sigmas = np.linspace(1.0, 1 / steps, steps) if self._even else None
        self.library.set_timesteps(steps, sigmas=sigmas, **self._shift)
        return [float(sigma) * self.timesteps - 1 for sigma in self.library.sigmas[:-1]]

    def enter(self, z_t: torch.Tensor, t: float, sigma: float) -> tuple[torch.Tensor, float]:
        return z_t, sigma * self.timesteps

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return z_t - sigma * output, z_t + signal * output
