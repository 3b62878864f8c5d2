"""Ancestral sampling of DDPM (Ho, Jain & Abbeel 2020)."""

from side_ray.config.base import Section
from side_ray.diffusion.samplers.ddim import Ddim


class Ddpm(Ddim):
    """The posterior between visited timesteps with its `fixed_small` variance.

    This is DDIM at η = 1, because ε is re-derived from the clamped x̂₀.
    """

    name = "ddpm"
    Options = Section

    @property
    def eta(self) -> float:
        return 1.0
