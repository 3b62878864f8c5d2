"""The config's section `sweep`: which settings are tried, and when a trial is given up."""

from collections.abc import Hashable
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from side_ray.config.base import Count, LambdaGrid, Positive, Real, Section, Share, Whole

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
