"""DPM-Solver++ (Lu et al. 2022), second-order multistep: diffusers' own scheduler, for other processes the same in (α, σ)."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from side_ray.diffusion.samplers.base import Advance, Sampler, leading_covers
from side_ray.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
    from torch import Tensor

    from side_ray.diffusion.processes import Schedule


class DpmSolver(Sampler):
    """DPM-Solver++, whose last step goes to the image itself: it visits multiples of T // (steps + 1) without 0.

    Where `leading` spacing would leave out the noisy end, the timesteps are diffusers' `linspace`.
    """

    name = "dpmsolver++"

    def visited_timesteps(self, schedule: "Schedule") -> Sequence[float]:
        from side_ray.diffusion.processes import NoiseProcess

        if isinstance(schedule, NoiseProcess):
            self.require_steps(2, schedule.config["num_train_timesteps"])
            return schedule.visited(self.steps)
        self.require_steps(2, schedule.config["num_train_timesteps"] - 1)
        visited = self._solver(schedule).timesteps.tolist()
        if len(set(visited)) < self.steps:
            raise UserError(
                f"{self.name} finds no {self.steps} timesteps on this noise schedule that are not pure noise"
            )
        return visited

    def begin(self, schedule: "Schedule", normal: Callable[[], "Tensor"]) -> Advance:
        """Deterministic: `normal` is never called."""
        from side_ray.diffusion.processes import NoiseProcess

        if isinstance(schedule, NoiseProcess):
            return multistep([schedule.level(t) for t in self.visited_timesteps(schedule)])
        solver = self._solver(schedule)

        def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
            return solver.step(x0, solver.timesteps[k], x, return_dict=False)[0]

        return advance

    def _solver(self, schedule: "DDPMScheduler") -> "DPMSolverMultistepScheduler":
        """diffusers' solver with `prediction_type` sample, because DPM-Solver++ integrates x̂₀."""
        from diffusers import DPMSolverMultistepScheduler

        total = schedule.config["num_train_timesteps"]
        spacing: dict[str, Any] = {"timestep_spacing": "leading"}
        if not leading_covers(total, self.steps + 1):
            # linspace starts at T−1, where a cosine schedule has no signal left; diffusers advises this bound.
            spacing = {"timestep_spacing": "linspace", "lambda_min_clipped": -5.1}
        solver = DPMSolverMultistepScheduler(
            num_train_timesteps=total, trained_betas=schedule.betas.cpu().numpy(), prediction_type="sample", **spacing
        )
        solver.set_timesteps(self.steps)
        return solver


def multistep(levels: Sequence[tuple[float, float]]) -> Advance:
    """DPM-Solver++ 2M (Lu et al. 2022, Algorithm 2) through (α, σ) of the visited times and on to the image.

    With λ = log α/σ and h from one λ to the next: z ← σ_s/σ_t·z − α_s·(e^(−h) − 1)·D, where D is ẑ₀ extrapolated by the one
    before. First-order where there is none, and for the last step.
    """
    ends = [*levels, (1.0, 0.0)]
    earlier: list[Tensor] = []

    def advance(x: "Tensor", x0: "Tensor", k: int) -> "Tensor":
        (signal, sigma), (then, low) = ends[k], ends[k + 1]
        # e^(−h) = α_t·σ_s / (σ_t·α_s), which is 0 for the step from pure noise and for that to the image.
        shrink = signal * low / (sigma * then)
        estimate = x0
        if k and shrink > 0:
            (before, above) = ends[k - 1]
            if before > 0:
                ratio = math.log(signal * above / (sigma * before)) / -math.log(shrink)
                estimate = x0 + (x0 - earlier[-1]) / (2 * ratio)
        earlier[:] = [x0]
        return low / sigma * x - then * (shrink - 1) * estimate

    return advance
