"""How the condition of each sample is drawn, and what the model is given of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from side_ray.config import DpmSection
from side_ray.diffusion.condition.classes import Condition
from side_ray.diffusion.condition.free import FreeGuidance
from side_ray.errors import UserError

if TYPE_CHECKING:
    from side_ray.diffusion.dpm import Dpm


@dataclass(frozen=True)
class Conditions:
    """The condition of each of N samples: classes int64 [N] of a class-conditional model, or None."""

    classes: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Conditioning:
    """How a model is conditioned; the defaults draw classes as often as the model saw them, without classifier-free guidance.

    Args:
        classes: `model`, `uniform`, `null_class`, or `labels`, see `dpm.classes`.
        counts: with `labels`, how many members have each label.
        null_class: the class that stands for no class; None = the model's own, if its kind has one (`null_class`).
        scale: s of classifier-free guidance.
    """

    classes: str = "model"
    counts: tuple[int, ...] = ()
    null_class: int | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, dpm: DpmSection, counts: Sequence[int] = ()) -> Self:
        """What the config's section `dpm` asks for."""
        return cls(dpm.classes, tuple(counts), dpm.null_class, dpm.guidance_scale)

    def check(self, model: "Dpm") -> None:
        """Raise UserError, with the config key, if a model cannot be conditioned so."""
        if model.num_classes is None:
            for key, asked in (("guidance_scale", self.scale != 1), ("classes", self.classes != "model")):
                if asked:
                    raise UserError("the model takes no condition; drop it", f"dpm.{key}")
            return
        if self._null(model) is None and (self.scale != 1 or self.classes == "null_class"):
            raise UserError(
                f"needs the class that stands for no class among the model's {model.num_classes}; give it as dpm.null_class, or "
                "drop this key if the model was not trained with one",
                "dpm.guidance_scale" if self.scale != 1 else "dpm.classes",
            )
        if self.classes == "labels" and len(self.counts) > model.num_classes:
            raise UserError(
                f"labels, but the data have {len(self.counts)} classes and the model {model.num_classes}; use uniform",
                "dpm.classes",
            )

    def drawn(self, model: "Dpm", seeds: Sequence[int]) -> Conditions:
        """The conditions of samples, each a function of its seed alone. Raises what `check` does."""
        self.check(model)
        return (
            Conditions() if model.num_classes is None else Conditions(self._proportions(model).classes_of(list(seeds)))
        )

    def batch(
        self, model: "Dpm", conditions: Conditions, rows: NDArray[np.int64]
    ) -> tuple[torch.Tensor | None, FreeGuidance | None]:
        """What the model is given for some rows of `conditions`, on its device, and their classifier-free guidance."""
        if conditions.classes is None:
            return None, None
        given = torch.from_numpy(conditions.classes[rows]).to(model.device)
        if self.scale == 1 or self.classes == "null_class":
            return given, None
        return given, FreeGuidance(torch.full_like(given, self._null(model)), self.scale)

    def _null(self, model: "Dpm") -> int | None:
        return self.null_class if self.null_class is not None else getattr(model, "null_class", None)

    def _proportions(self, model: "Dpm") -> Condition:
        assert model.num_classes is not None
        classes, null = model.num_classes, self._null(model)
        if self.classes == "null_class" and null is not None:
            return Condition.only(null, classes)
        if self.classes == "labels":
            return Condition(self.counts)
        found = Condition.uniform(classes) if self.classes == "uniform" else model.condition
        found = found or Condition.uniform(classes)
        return found if null is None else found.without(null)


PLAIN = Conditioning()
"""Classes as often as the model saw them, without classifier-free guidance."""
