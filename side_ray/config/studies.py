"""Sections `theory`, `privacy`, `control` and `sweep`: studies beyond a single audit."""

import math
from collections.abc import Hashable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from side_ray.config.base import (
    MOST_GUIDANCE,
    Actors,
    Batch,
    Classes,
    Count,
    LambdaGrid,
    Positive,
    Real,
    Section,
    Share,
    Whole,
    omitted_by_default,
)
from side_ray.config.dpm import MOST_TIMESTEPS

Few = Annotated[Count, Field(le=10_000)]
Guidance = Annotated[Positive, Field(le=MOST_GUIDANCE)]
MOST_TRIALS = 100_000
"""Settings of a sweep; each is an audit."""


class TheorySection(Section):
    """What `side-ray theory` computes. An audit ignores it."""

    images: Batch = 2000
    """Members used as the training set, drawn at random where there are more."""
    points: Annotated[Batch, Field(ge=2)] = 200
    """Points per density estimate: of the smoothed training set at each ε, and samples of the model."""
    epsilons: Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)] = [
        1e-4,
        1e-3,
        1e-2,
    ]
    """ε of Eq. 2, a variance in squared units of images in [-1, 1] (ε² in arXiv 2410.02467v7)."""
    timesteps: Annotated[list[Annotated[Whole, Field(lt=MOST_TIMESTEPS)]], Field(min_length=1)] = [50, 250, 500]
    """Timesteps t at which the latents x_t and the middle block are analysed."""
    draws: Few = 4
    """Noise draws, hence latents, per image and t."""
    classes: Classes | None = None
    """Random labels and clusters; as many as there are true classes where absent, or 10."""
    ode_steps: Few = 40
    """Runge-Kutta steps of the probability flow, four evaluations each."""
    probes: Few = 1
    """Random vectors of Hutchinson's trace estimate per evaluation."""
    batch_size: Batch = 100
    """Images at once; lower it if a device runs out of memory."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key in ("epsilons", "timesteps"):
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ValueError(f"theory.{key}: holds a value twice; list each once")
        return self


class PrivacySection(Section):
    """The lower bound on the privacy loss ε of the training, where members and unseen images were told apart by a random draw."""

    pairs: Whole = 1000
    """Most pairs of a member and an unseen image; 0 = no bound. n pairs can show at most about ε = log(n/3)."""
    canaries: str | None = omitted_by_default(None)
    """The plan that `side-ray canaries` wrote, for a model that was trained elsewhere by it."""


class ControlSection(Section):
    """A second DPM, trained on other images and guided by the audited DPM's classifiers: does the classifier alone produce
    copies?"""

    members: Count | None = None
    """Images that the control DPM is trained on, none of them in the audit's three sets; as many as data.members where absent."""
    lambdas: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """Guidance scales of the audit that are sampled; all where absent. Random is always included."""


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
    """Successive halving on shards: after each of these fractions of N_G only the best trials continue."""

    after: Annotated[list[Fraction], Field(min_length=1), AfterValidator(_ascending)] = [0.25, 0.5]
    """Fractions of a trial's N_G, rounded up to whole shards."""
    keep: Fraction = 0.5
    """Share of the trials that continues, rounded up; trials that tie with the last of them continue too."""


class SweepSection(Section):
    """What `side-ray sweep` tries. An axis that is absent has one value, that of the config."""

    lambdas: LambdaGrid | None = None
    """Guidance scales λ; those of extract.lambdas where absent. 0 is the Random baseline, which all classifiers share."""
    lambda_range: tuple[Guidance, Guidance] | None = None
    """search random: λ is drawn log-uniformly from [from, to] instead of from `lambdas`."""
    classes: Annotated[list[Classes], AfterValidator(_axis)] | None = None
    """Numbers of classes C; a classifier of the data's own labels ignores them."""
    labels: Annotated[list[str], AfterValidator(_axis)] | None = None
    """Values of surrogate.labels."""
    arch: Annotated[list[str], AfterValidator(_axis)] | None = None
    """The student's depth: small, resnet18, resnet34."""
    steps: Annotated[list[Annotated[Count, Field(le=MOST_TIMESTEPS)]], AfterValidator(_axis)] | None = None
    """Sampler steps. The synthetic set is sampled with them too, so each number of steps has its own set and its own students."""
    intervals: Annotated[list[tuple[Share, Share]], AfterValidator(_axis)] | None = None
    """Values of extract.guidance_interval."""
    search: Literal["grid", "random"] = "grid"
    """Every combination of the axes, or settings drawn at random."""
    trials: Annotated[Count, Field(le=MOST_TRIALS)] | None = None
    """search random: how many settings are drawn."""
    score: Literal["ams", "ums", "ums_best"] = "ams"
    """The metric by which settings are ranked and stopped early."""
    band: str = "calibrated"
    """Where the metric is taken: `calibrated` is the calibrated cut, a band's name is that band and all stricter ones."""
    early_stopping: EarlyStopping | None = None
    """Stop the worst trials early; absent, all run to the end."""
    max_concurrent_trials: Actors | None = None
    """As many as fit on the cluster where absent; a trial needs what a sampling actor needs (cluster.actor_cpus, .gpus)."""
    retries: Annotated[Whole, Field(le=1000)] = 2
    """How often a trial is retried before it counts as failed."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        axes = (self.lambdas, self.classes, self.labels, self.arch, self.steps, self.intervals)
        if self.search == "grid" and (trials := math.prod(len(axis) for axis in axes if axis)) > MOST_TRIALS:
            raise ValueError(f"sweep: its lists make {trials:,} settings, more than {MOST_TRIALS:,}; shorten them")
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
