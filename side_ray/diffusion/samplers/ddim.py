"""DDIM (Song, Meng & Ermon 2021): deterministic at η = 0, ancestral at η = 1."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from side_ray.config.base import Section, Share
from side_ray.diffusion.samplers.base import Advance, Sampler, spaced

if TYPE_CHECKING:
    from diffusers import DDPMScheduler
    from torch import Tensor


class DdimOptions(Section):
    eta: Share = 0.0
    """η: share of DDPM's noise that DDIM adds at each step, 0 (deterministic) to 1."""


class Ddim(Sampler):
    """DDIM with the share η of DDPM's noise added at each step."""

    name = "ddim"
    Options: ClassVar[type[Section]] = DdimOptions

    @property
    def eta(self) -> float:
        return self.options.eta

    def visited_timesteps(self, schedule: "DDPMScheduler") -> list[int]:
        total = schedule.config["num_train_timesteps"]
        self.require_steps(2, total)
        return spaced(total, self.steps)

    def begin(self, schedule: "DDPMScheduler", normal: Callable[[], "Tensor"]) -> Advance:
        """Eq. 12 and 16 of Song et al., from ᾱ_t to ᾱ_s of the next visited timestep; after the last one ᾱ_s = 1, so x = x̂₀.

        ε = (x − √ᾱ_t·x̂₀) / √(1−ᾱ_t), σ = η·√((1−ᾱ_s)/(1−ᾱ_t)·(1−ᾱ_t/ᾱ_s)), x ← √ᾱ_s·x̂₀ + √(1−ᾱ_s−σ²)·ε + σ·z.
        """
        alpha_bars = [*schedule.alphas_cumprod.double()[self.visited_timesteps(schedule)].tolist(), 1.0]

        def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
            now, then = alpha_bars[k], alpha_bars[k + 1]
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            sigma = self.eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
            x = math.sqrt(then) * x0 + math.sqrt(max(1 - then - sigma**2, 0.0)) * eps
            added = self.added(schedule, sigma, now, then)
            return x + added * normal().to(x.device) if sigma > 0 else x

        return advance

    def added(self, schedule: "DDPMScheduler", sigma: float, now: float, then: float) -> float:
        """Standard deviation of the noise that is added, from σ, ᾱ_t and ᾱ_s > ᾱ_t."""
        return sigma
