"""What a sampler is, and the spacing of timesteps that samplers share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from side_ray.config.base import Section
from side_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from side_ray.diffusion.processes import Schedule

Advance = Callable[["Tensor", "Tensor", int], "Tensor"]
"""(x_t at the k-th visited timestep, x̂₀ clamped to [−1, 1], k) → x at the next visited timestep, after the last one x₀."""


class Sampler(ABC):
    """A sampler with its number of steps and its options.

    Args:
        steps: number of timesteps visited (`extract.steps`).
        options: values of `Options`, by default its own.
    """

    name: ClassVar[str]
    """Its name in messages."""
    Options: ClassVar[type[Section]] = Section
    """The keys that it adds to the config's section `extract`."""

    def __init__(self, steps: int, **options: Any) -> None:
        self.steps = steps
        self.options: Any = self.Options(**options)

    def __str__(self) -> str:
        """For people, for example `ddim-50`."""
        return f"{self.name}-{self.steps}"

    @property
    def evaluations(self) -> int:
        """Evaluations of the model per image: one per step, unless a sampler says otherwise."""
        return self.steps

    @abstractmethod
    def visited_timesteps(self, schedule: "Schedule") -> "Sequence[float]":
        """The times (0 … T−1) that are visited, from noise to image: timestep indices where the process is variance-preserving.

        Raises:
            UserError: a number of steps that it cannot take on this noise schedule.
        """

    @abstractmethod
    def begin(self, schedule: "Schedule", normal: Callable[[], "Tensor"]) -> Advance:
        """The step function of one batch; it may keep a history of the steps before.

        Args:
            schedule: the model's noise process; a `DDPMScheduler` if that is variance-preserving.
            normal: gives the noise of the next stochastic step, float32 [B, C, H, W] on the CPU.
        """

    def require_steps(self, least: int, most: int) -> None:
        """Raise UserError unless least ≤ steps ≤ most."""
        if not least <= self.steps <= most:
            raise UserError(f"{self.name} takes {least} to {most} steps on this noise schedule, got {self.steps}")


def spaced(total: int, steps: int) -> list[int]:
    """Timesteps of `total`, from noise to image: diffusers' `leading` spacing, multiples of total // steps down to 0.

    Where that would leave out more than a tenth of the range at the noisy end (600 of 1,000 steps would start at 599, whose
    x_t is far from pure noise) they are spread evenly over all of it instead: ⌊k·total/steps⌋.
    """
    if leading_covers(total, steps):
        return [k * (total // steps) for k in reversed(range(steps))]
    return [k * total // steps for k in reversed(range(steps))]


def leading_covers(total: int, intervals: int) -> bool:
    """Whether multiples of total // intervals reach into the noisiest tenth of the timesteps."""
    return total // intervals * intervals >= 0.9 * total
