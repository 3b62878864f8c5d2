"""Ancestral sampling of DDPM (Ho, Jain & Abbeel 2020)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from side_ray.config.base import Section
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.errors import UserError

if TYPE_CHECKING:
    from side_ray.diffusion.processes import Schedule

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")


class Ddpm(Ddim):
    """The posterior between visited timesteps, with the variance of the model's scheduler: `fixed_small`, or β for `fixed_large`.

    With `fixed_small` this is DDIM at η = 1, because ε is re-derived from the clamped x̂₀.
    """

    name = "ddpm"
    Options = Section

    @property
    def eta(self) -> float:
        return 1.0

    def visited_timesteps(self, schedule: "Schedule") -> Sequence[float]:
        variance = schedule.config.get("variance_type", VARIANCES[0])
        if variance not in VARIANCES:
            raise UserError(
                f"extract.sampler: {self.name} cannot sample a model with variance_type {variance!r}; use ddim or dpmsolver++"
            )
        return super().visited_timesteps(schedule)

    def added(self, schedule: "Schedule", sigma: float, now: float, then: float) -> float:
        return math.sqrt(1 - now / then) if schedule.config["variance_type"].startswith("fixed_large") else sigma
