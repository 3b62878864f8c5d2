"""UniPC (Zhao et al. 2023), second-order, in ẑ₀: a multistep predictor, and a corrector that takes no evaluation of its own."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from side_ray.diffusion.samplers.base import Advance
from side_ray.diffusion.samplers.dpmsolver import DpmSolver

if TYPE_CHECKING:
    from torch import Tensor

    from side_ray.diffusion.processes import Schedule


class UniPc(DpmSolver):
    """UniPC-2 with B(h) = e^h − 1, through the timesteps that DPM-Solver++ visits."""

    name = "unipc"

    def begin(self, schedule: "Schedule", normal: Callable[[], "Tensor"]) -> Advance:
        """Deterministic: `normal` is never called."""
        from side_ray.diffusion.processes import process_of

        process = process_of(schedule)
        return unipc([process.level(t) for t in self.visited_timesteps(schedule)])


def unipc(levels: Sequence[tuple[float, float]]) -> Advance:
    """UniPC-2 (Zhao et al. 2023, Algorithms 7 and 8; diffusers' `bh2`) through (α, σ) of the visited times and on to the image.

    With λ = log α/σ, h = λ_s − λ_t and D₀ = ẑ₀ at t, both steps begin with z = σ_s/σ_t·z_t − α_s·B·D₀, B = e^(−h) − 1. The
    predictor subtracts α_s·B·½·D₁, D₁ = (ẑ₀ before − D₀)/r with r = (λ before − λ_t)/h. When ẑ₀ at s is known the corrector takes
    this step once more and subtracts α_s·B·(ρ₁·D₁ + ρ₂·(ẑ₀ at s − D₀)). First-order (D₁ = 0, ρ₂ = ½) where there is no ẑ₀ before,
    and predicting for the last step.
    """
    ends = [*levels, (1.0, 0.0)]
    start: list[Tensor] = []
    estimates: list[Tensor] = []

    def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
        if k:
            x = step(k - 1, x0)
        start[:], estimates[:] = [x], [*estimates[-1:], x0]
        return step(k)

    def step(k: int, found: "Tensor | None" = None) -> "Tensor":
        """From the k-th visited time to the next: predicted, or corrected by `found`, the ẑ₀ there."""
        (signal, sigma), (then, low) = ends[k], ends[k + 1]
        shrink = signal * low / (sigma * then)  # e^(−h): 0 for the step from pure noise and for that to the image
        own, change = estimates[-1], shrink - 1
        x = low / sigma * start[0] - then * change * own
        if k == 0 or shrink == 0:
            return x if found is None else x - then * change * 0.5 * (found - own)
        before, above = ends[k - 1]
        h = -math.log(shrink)
        r = math.log(before * sigma / (above * signal)) / h if before > 0 else -math.inf
        slope = (estimates[0] - own) / r
        if found is None:
            return x - then * change * 0.5 * slope
        first = (change / -h - 1) / change
        second = 2 * ((change / -h - 1) / -h - 0.5) / change
        rho = (first - second) / (1 - r)
        return x - then * change * (rho * slope + (first - rho) * (found - own))

    return advance
