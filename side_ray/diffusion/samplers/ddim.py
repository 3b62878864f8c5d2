"""DDIM (Song, Meng & Ermon 2021): deterministic at η = 0, ancestral at η = 1. For other processes it is their Euler step."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from side_ray.config.base import Section, Share
from side_ray.diffusion.samplers.base import Advance, Sampler, spaced
from side_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from side_ray.diffusion.processes import Schedule


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

    def visited_timesteps(self, schedule: "Schedule") -> Sequence[float]:
        from side_ray.diffusion.processes import NoiseProcess

        total = schedule.config["num_train_timesteps"]
        self.require_steps(2, total)
        if not isinstance(schedule, NoiseProcess):
            return spaced(total, self.steps)
        if self.eta:
            raise UserError(f"{self.name} with noise is for variance-preserving models; use ddim with extract.eta: 0")
        return schedule.visited(self.steps)

    def begin(self, schedule: "Schedule", normal: Callable[[], "Tensor"]) -> Advance:
        """Eq. 12 and 16 of Song et al., from ᾱ_t to ᾱ_s of the next visited timestep; after the last one ᾱ_s = 1, so x = x̂₀.

        ε = (x − √ᾱ_t·x̂₀) / √(1−ᾱ_t), σ = η·√((1−ᾱ_s)/(1−ᾱ_t)·(1−ᾱ_t/ᾱ_s)), x ← √ᾱ_s·x̂₀ + √(1−ᾱ_s−σ²)·ε + σ·z.
        """
        from side_ray.diffusion.processes import NoiseProcess

        if isinstance(schedule, NoiseProcess):
            return euler([schedule.level(t) for t in self.visited_timesteps(schedule)])
        alpha_bars = [*schedule.alphas_cumprod.double()[list(self.visited_timesteps(schedule))].tolist(), 1.0]

        def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
            now, then = alpha_bars[k], alpha_bars[k + 1]
            eps = (x - math.sqrt(now) * x0) / math.sqrt(1 - now)
            sigma = self.eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
            x = math.sqrt(then) * x0 + math.sqrt(max(1 - then - sigma**2, 0.0)) * eps
            added = self.added(schedule, sigma, now, then)
            return x + added * normal().to(x.device) if sigma > 0 else x

        return advance

    def added(self, schedule: "Schedule", sigma: float, now: float, then: float) -> float:
        """Standard deviation of the noise that is added, from σ, ᾱ_t and ᾱ_s > ᾱ_t."""
        return sigma


def euler(levels: Sequence[tuple[float, float]]) -> Advance:
    """z ← α_s·ẑ₀ + σ_s·ε with ε = (z − α_t·ẑ₀) / σ_t, through (α, σ) of the visited times and on to the image, (1, 0)."""
    ends = [*levels, (1.0, 0.0)]

    def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
        (signal, sigma), (then, low) = ends[k], ends[k + 1]
        return then * x0 + low / sigma * (x - signal * x0)

    return advance
