"""DPM-Solver++ (Lu et al. 2022), second-order multistep: diffusers' own scheduler."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from side_ray.diffusion.samplers.base import Advance, Sampler, leading_covers
from side_ray.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
    from torch import Tensor


class DpmSolver(Sampler):
    """DPM-Solver++, whose last step goes to the image itself: it visits multiples of T // (steps + 1) without 0.

    Where `leading` spacing would leave out the noisy end, the timesteps are diffusers' `linspace`.
    """

    name = "dpmsolver++"

    def visited_timesteps(self, schedule: "DDPMScheduler") -> list[int]:
        self.require_steps(2, schedule.config["num_train_timesteps"] - 1)
        visited = self._solver(schedule).timesteps.tolist()
        if len(set(visited)) < self.steps:
            raise UserError(
                f"{self.name} finds no {self.steps} timesteps on this noise schedule that are not pure noise"
            )
        return visited

    def begin(self, schedule: "DDPMScheduler", normal: Callable[[], "Tensor"]) -> Advance:
        """Deterministic: `normal` is never called."""
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
