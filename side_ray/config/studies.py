"""Sections of the config for what goes beyond an audit: the theory on a real model, and the control of the classifier."""

from collections.abc import Hashable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from side_ray.config.base import Count, LambdaGrid, Positive, Real, Section, Share, Whole


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


Value = TypeVar("Value", bound=Hashable)


def _axis(values: list[Value]) -> list[Value]:
    if not values:
        raise ValueError("is empty; leave the key out to keep the setting of the config")
    if len(set(values)) != len(values):
        raise ValueError("holds a value twice; list each once")
    return values


def _ascending(values: list[float]) -> list[float]:
    if values != sorted(set(values)):
        raise ValueError("must ascend; write for example [0.25, 0.5]")
    return values


Fraction = Annotated[Real, Field(gt=0, lt=1)]


class EarlyStopping(Section):
    """Successive halving on shards: after each of these parts of N_G only the best trials go on."""

    after: Annotated[list[Fraction], Field(min_length=1), AfterValidator(_ascending)] = [0.25, 0.5]
    """Parts of a trial's N_G, rounded up to whole shards."""
    keep: Fraction = 0.5
    """Share of the trials that goes on, rounded up; equals of the last one go on too."""


class SweepSection(Section):
    """What `side-ray sweep` tries. An axis that is absent keeps the one setting of the config."""

    lambdas: LambdaGrid | None = None
    """Guidance scales λ; those of extract.lambdas where absent. 0 is the Random baseline, one for all classifiers."""
    lambda_range: tuple[Positive, Positive] | None = None
    """search random: λ is drawn log-uniformly from [from, to] instead of from `lambdas`."""
    classes: Annotated[list[Count], AfterValidator(_axis)] | None = None
    """Numbers of classes C; a classifier of the data's own labels has its own, whatever stands here."""
    labels: Annotated[list[str], AfterValidator(_axis)] | None = None
    arch: Annotated[list[str], AfterValidator(_axis)] | None = None
    """The student's depth: small, resnet18, resnet34."""
    steps: Annotated[list[Count], AfterValidator(_axis)] | None = None
    """Sampler steps. They make the synthetic set too, so that each number of steps has its own, with its own students."""
    intervals: Annotated[list[tuple[Share, Share]], AfterValidator(_axis)] | None = None
    """Values of extract.guidance_interval."""
    search: Literal["grid", "random"] = "grid"
    trials: Count | None = None
    """search random: how many settings are drawn."""
    score: Literal["ams", "ums", "ums_best"] = "ams"
    """What the best setting has most of, and what early stopping goes by."""
    band: str = "calibrated"
    """Where: `calibrated` is the calibrated cut, a band's name that band and all stricter ones."""
    early_stopping: EarlyStopping | None = None
    max_concurrent_trials: Count | None = None
    """As many as the cluster has room for where absent; a trial takes what a sampling actor does (cluster.actor_cpus, .gpus)."""
    retries: Whole = 2
    """How often a failed trial is tried again before it counts as failed."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.search == "grid":
            for name in ("trials", "lambda_range"):
                if getattr(self, name) is not None:
                    raise ValueError(f"sweep.{name}: is for sweep.search random; drop it or set that")
        elif self.trials is None:
            raise ValueError("sweep.trials: search random needs the number of settings to draw; add it")
        if self.lambda_range and self.lambda_range[0] >= self.lambda_range[1]:
            raise ValueError(
                f"sweep.lambda_range: {list(self.lambda_range)} holds nothing; write [from, to], from < to"
            )
        if self.lambda_range and self.lambdas:
            raise ValueError("sweep.lambdas: is given beside sweep.lambda_range; give one of them")
        return self
