"""Sections of the config for what goes beyond an audit: the theory on a real model, and the control of the classifier."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from side_ray.config.base import Count, Section, Whole


class TheorySection(Section):
    """What `side-ray theory` computes; an audit does not read it."""

    images: Count = 2000
    """Members that stand for the training set, drawn at random where there are more."""
    points: Annotated[int, Field(strict=True, ge=2)] = 200
    """Points per density estimate: of the smoothed training set at each ε, and samples of the model."""
    epsilons: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)] = [
        1e-4,
        1e-3,
        1e-2,
    ]
    """ε of Eq. 2, a variance in squared units of images in [-1, 1] (the later edition's ε²)."""
    timesteps: Annotated[list[Whole], Field(min_length=1)] = [50, 250, 500]
    """t at which the latents x_t and the middle block are looked at."""
    draws: Count = 4
    """Noises, hence latents, per image and t."""
    classes: Annotated[int, Field(strict=True, ge=2)] | None = None
    """Random labels and clusters; as many as there are true classes where absent, or 10."""
    ode_steps: Count = 40
    """Runge-Kutta steps of the probability flow, four evaluations each."""
    probes: Count = 1
    """Random vectors of Hutchinson's trace estimate per evaluation."""
    batch_size: Count = 100

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key in ("epsilons", "timesteps"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"theory.{key}: holds a value twice; list each once")
        return self


class ControlSection(Section):
    """A second DPM, of other images, guided by the audited DPM's classifiers: does the classifier alone give copies?"""

    members: Count | None = None
    """Images that the control DPM is trained on, none of them in the audit's three sets; as many as data.members where absent."""
    lambdas: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """Guidance scales of the audit that are tried; all where absent. Random is always among them."""
