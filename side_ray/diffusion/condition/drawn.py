"""How the condition of each sample is drawn, and what the model is given of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from side_ray.config import DpmSection
from side_ray.config.dpm import CAPTIONS, EMPTY, MEMBER_CAPTIONS, UNSEEN_CAPTIONS
from side_ray.diffusion.condition.classes import Condition, drawn_of
from side_ray.diffusion.condition.free import FreeGuidance
from side_ray.diffusion.condition.prompts import PromptEncoder
from side_ray.errors import UserError

if TYPE_CHECKING:
    from side_ray.diffusion.dpm import Dpm


def encoder_of(model: "Dpm") -> PromptEncoder | None:
    """The encoder of a text-conditioned model's prompts; None for any other."""
    return getattr(model, "encoder", None)


def example(model: "Dpm") -> torch.Tensor | None:
    """A condition that the model takes, for one image; None if it takes none."""
    encoder = encoder_of(model)
    if encoder is not None:
        return encoder([""])
    return None if model.num_classes is None else torch.zeros(1, dtype=torch.int64, device=model.device)


def evaluations(dpm: DpmSection, model: "Dpm | None") -> int:
    """Evaluations of a model for one of a sampler: 2 with classifier-free guidance, but for one that is told the scale."""
    return 1 if model is not None and embeds_guidance(model) else dpm.evaluations


def embeds_guidance(model: "Dpm") -> bool:
    """Whether the network is told the guidance scale, so that one evaluation is a guided one."""
    return bool(getattr(model, "guidance_embedded", False))


@dataclass(frozen=True)
class Conditions:
    """The conditions of N samples: classes int64 [N] of a class-conditional model, or N prompts of a text-conditioned one."""

    classes: NDArray[np.int64] | None = None
    prompts: list[str] | None = None


@dataclass(frozen=True)
class Conditioning:
    """How a model is conditioned; the defaults draw classes as often as the model saw them, without classifier-free guidance.

    Args:
        classes: `model`, `uniform`, `null_class`, or `labels`, see `dpm.classes`.
        counts: with `labels`, how many members have each label.
        null_class: the class that stands for no class; None = the model's own, if its kind has one (`null_class`).
        scale: s of classifier-free guidance.
        prompts: `dpm.prompts`; None = none are asked for.
        texts: with prompts, what they are drawn from, each equally often.
    """

    classes: str = "model"
    counts: tuple[int, ...] = ()
    null_class: int | None = None
    scale: float = 1.0
    prompts: str | None = None
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, dpm: DpmSection) -> Self:
        """What the config's section `dpm` asks for, without `counts` and `texts` that are not in the config itself."""
        texts = ("",) if dpm.prompts == EMPTY else ()
        return cls(dpm.classes, (), dpm.null_class, dpm.guidance_scale, dpm.prompts, texts)

    @classmethod
    def like(cls, dpm: DpmSection) -> Self:
        """Conditions of any content that cost what those of `dpm` do."""
        texts = () if dpm.prompts is None else ("an image",)
        return cls(null_class=0, scale=1.0 if dpm.evaluations == 1 else 2.0, prompts=dpm.prompts, texts=texts)

    def check(self, model: "Dpm") -> None:
        """Raise UserError, with the config key, if a model cannot be conditioned so."""
        text = encoder_of(model) is not None
        if text and self.prompts is None:
            raise UserError(
                f"the model takes prompts: give {CAPTIONS}, {MEMBER_CAPTIONS}, {UNSEEN_CAPTIONS}, {EMPTY}, or a "
                "file with a prompt in each line",
                "dpm.prompts",
            )
        for key, asked, taken in (
            ("prompts", self.prompts is not None, text),
            ("guidance_scale", self.scale != 1, text or model.num_classes is not None),
            ("classes", self.classes != "model", model.num_classes is not None),
        ):
            if asked and not taken:
                takes = "prompts" if text else "no condition" if model.num_classes is None else "classes"
                raise UserError(f"the model takes {takes}; drop it", f"dpm.{key}")
        if model.num_classes is None:
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
        if encoder_of(model) is not None:
            if not self.texts:
                raise UserError("there are no prompts to draw from", "dpm.prompts")
            return Conditions(prompts=[self.texts[drawn_of(seed, "prompt", len(self.texts))] for seed in seeds])
        if model.num_classes is None:
            return Conditions()
        return Conditions(self._proportions(model).classes_of(list(seeds)))

    def batch(
        self, model: "Dpm", conditions: Conditions, rows: NDArray[np.int64]
    ) -> tuple[torch.Tensor | None, FreeGuidance | None]:
        """What the model is given for some rows of `conditions`, on its device, and their classifier-free guidance."""
        given, encoder = self.given(model, conditions, rows), encoder_of(model)
        alone = self.scale == 1 or self.classes == "null_class" or self.prompts == EMPTY or embeds_guidance(model)
        if given is None or alone:
            return given, None
        if encoder is None:
            return given, FreeGuidance(torch.full_like(given, self._null(model)), self.scale)
        return given, FreeGuidance(encoder.null().expand_as(given), self.scale)

    def given(self, model: "Dpm", conditions: Conditions, rows: NDArray[np.int64]) -> torch.Tensor | None:
        """The condition that the model is given for some rows of `conditions`, on its device; None if it takes none. A model that
        is told the guidance scale finds it in there."""
        encoder: Any = encoder_of(model)
        if encoder is not None and conditions.prompts is not None:
            found: torch.Tensor = encoder([conditions.prompts[row] for row in rows])
            told: Any = model
            return told.guided(found, self.scale) if embeds_guidance(model) else found
        return None if conditions.classes is None else torch.from_numpy(conditions.classes[rows]).to(model.device)

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
