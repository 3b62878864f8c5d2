"""EDM (Karras et al. 2022): α = 1, σ from `sigma_min` to `sigma_max`, and a preconditioned network F.

D(z; σ) = c_skip·z + c_out·F(c_in·z, ¼·log σ) is ẑ₀, with c_skip = σ_d²/(σ² + σ_d²), c_in = 1/√(σ² + σ_d²) and
c_out = σ·σ_d·c_in, minus that for `v_prediction` (diffusers' `EDMEulerScheduler`).
"""

import math

import torch

from side_ray.diffusion.processes.library import LibraryProcess


class Edm(LibraryProcess):
    """t = 0 … T−1 is the ramp of σ^(1/ρ) from `sigma_min` to `sigma_max` (Eq. 5)."""

    scheduler = "EDMEulerScheduler"

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = self._ends
        share = t.double() / (self.timesteps - 1)
        return torch.ones_like(share), (low + share * (high - low)) ** self.config["rho"]

    def visited(self, steps: int) -> list[float]:
        self.library.set_timesteps(steps)
        low, high = self._ends
        shares = [(float(sigma) ** (1 / self.config["rho"]) - low) / (high - low) for sigma in self.library.sigmas[:-1]]
        return [share * (self.timesteps - 1) for share in shares]

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * self.library.init_noise_sigma

    def enter(self, z_t: torch.Tensor, t: float, sigma: float) -> tuple[torch.Tensor, float]:
        return z_t / math.sqrt(sigma**2 + self.config["sigma_data"] ** 2), 0.25 * math.log(sigma)

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        data = self.config["sigma_data"]
        total = sigma**2 + data**2
        sign = -1 if self.config["prediction_type"] == "v_prediction" else 1
        z0 = data**2 / total * z_t + sign * sigma * data / math.sqrt(total) * output
        return z0, (z_t - z0) / sigma

    @property
    def _ends(self) -> tuple[float, float]:
        """sigma_min^(1/ρ) and sigma_max^(1/ρ)."""
        return tuple(self.config[name] ** (1 / self.config["rho"]) for name in ("sigma_min", "sigma_max"))
