"""The settings of a sweep, the audit config of each, and the path of the results. No Ray."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from side_ray.config import Config
from side_ray.config.file import parse_config
from side_ray.errors import UserError
from side_ray.runs.artifacts import VERSIONS, Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact
from side_ray.runs.status import Stage, merged, planned
from side_ray.statistics.bands import CALIBRATED, bands_of

EVERY_STEP = (0.0, 1.0)


@dataclass(frozen=True)
class Setting:
    """One setting of the sweep: a condition and the settings of its classifier. Random (λ = 0) has no classifier."""

    scale: float
    steps: int
    labels: str | None = None
    classes: int | None = None
    """None for labels `classifier`, which uses the classes of the data."""
    arch: str | None = None
    interval: tuple[float, float] = EVERY_STEP

    @property
    def condition(self) -> Condition:
        return Condition("td" if self.scale else "random", self.scale)

    @property
    def name(self) -> str:
        """Name that is unique within a sweep and valid as a part of a path."""
        start, end = self.interval
        words = [self.labels, self.classes and f"classes={self.classes}", self.arch, f"steps={self.steps}"]
        words += [f"interval={start}-{end}" if self.interval != EVERY_STEP else None]
        words += [f"lambda={self.scale}" if self.scale else "random"]
        return ",".join(str(word) for word in words if word)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: Random first, then by classifier, then by λ."""
        return (self.steps, self.labels or "", self.classes or 0, self.arch or "", self.interval, self.scale)

    def columns(self) -> dict[str, Any]:
        """Columns of the sweep's table that identify the setting."""
        start, end = self.interval
        columns = {"labels": self.labels, "classes": self.classes, "arch": self.arch, "steps": self.steps}
        return columns | {"interval_from": start, "interval_to": end}


def settings(config: Config) -> list[Setting]:
    """The distinct settings of the config's section `sweep`, sorted by `Setting.order`.

    Raises:
        UserError: samples are given, or there are fewer settings than `sweep.trials`.
    """
    if config.given:
        raise UserError("given: a sweep samples, but here the samples are given; remove the section `given`")
    found = _drawn(config) if config.sweep.search == "random" else set(_grid(config, _scales(config)))
    return sorted(found, key=lambda setting: setting.order)


def _scales(config: Config) -> list[float]:
    return config.extract.lambdas if config.sweep.lambdas is None else config.sweep.lambdas


def _grid(config: Config, scales: list[float]) -> Iterator[Setting]:
    sweep, surrogate, extract = config.sweep, config.surrogate, config.extract
    axes = (
        scales,
        sweep.steps or [extract.steps],
        sweep.labels or [surrogate.labels],
        sweep.classes or [surrogate.classes],
        sweep.arch or [surrogate.arch],
        sweep.intervals or [extract.guidance_interval],
    )
    for scale, steps, labels, classes, arch, interval in itertools.product(*axes):
        own = None if labels == "classifier" else classes
        yield Setting(scale, steps, labels, own, arch, interval) if scale else Setting(0.0, steps)


def _drawn(config: Config) -> set[Setting]:
    """`sweep.trials` distinct random settings, determined by `run.seed`."""
    sweep, rng = config.sweep, np.random.default_rng([config.run.seed, 4])
    assert sweep.trials is not None
    if sweep.lambda_range is None:
        grid = sorted(set(_grid(config, _scales(config))), key=lambda setting: setting.order)
        if sweep.trials > len(grid):
            raise UserError(
                f"sweep.trials: {sweep.trials} trials, but only {len(grid)} settings; lower it, or give sweep.lambda_range"
            )
        return {grid[i] for i in rng.choice(len(grid), sweep.trials, replace=False)}
    low, high = sweep.lambda_range
    found: set[Setting] = set()
    while len(found) < sweep.trials:
        # Three significant digits are precise enough, and the number becomes part of a path.
        scale = float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
        around = list(_grid(config, [scale]))
        found.add(around[rng.integers(len(around))])
    return found


def config_of(config: Config, setting: Setting) -> Config:
    """The config of the audit that samples only the setting's condition.

    Raises:
        UserError: the setting is not valid for an audit, or the config asks for a LoRA surrogate.
    """
    if config.surrogate.kind == "lora":
        raise UserError("a sweep varies the classifier of SIDE; use classifier", "surrogate.kind")
    values = config.model_dump(mode="json", exclude={"sweep"})
    extract, surrogate = values["extract"], values["surrogate"]
    if extract.get("samples_per_target"):
        del extract["samples"]
    extract |= {"lambdas": sorted({0.0, setting.scale}), "ti_lambdas": None, "steps": setting.steps}
    values["dpm"].pop("base", None)
    extract.pop("base_lambdas", None)
    extract["methods"] = [setting.condition.method]
    if setting.scale:
        extract["guidance_interval"] = list(setting.interval)
        surrogate |= {"labels": setting.labels, "arch": setting.arch}
        surrogate["classes"] = setting.classes or surrogate["classes"]
    return parse_config(values, f"sweep: {setting.name}")


def audit_of(config: Config, setting: Setting) -> Config:
    """The config of a stand-alone audit of a setting: its λ, and Random. Raises UserError if it is not valid."""
    chosen = config_of(config, setting)
    methods = ["random", "td"] if setting.scale else ["random"]
    values = chosen.model_dump(mode="json")
    values["extract"] |= {"methods": methods}
    return parse_config(values, f"sweep: {setting.name}")


@dataclass
class SweepPlan:
    """The settings of a sweep with their artifacts. `base`: the artifacts of the config itself."""

    base: Artifacts
    settings: list[Setting] = field(init=False)
    artifacts: dict[Setting, Artifacts] = field(init=False)

    @property
    def config(self) -> Config:
        return self.base.config

    def __post_init__(self) -> None:
        self.settings = settings(self.config)
        band, known = self.config.sweep.band, [CALIBRATED, *bands_of(self.config).names]
        if band not in known:
            raise UserError(f"sweep.band: there is no band {band}; known: {', '.join(known)}")
        self.artifacts = {each: self.base.sharing(config_of(self.config, each)) for each in self.settings}

    @cached_property
    def results(self) -> Artifact:
        """The artifact of the sweep's results."""
        parts = [
            [each.name, found.config.extract.samples, found.scores(each.condition).fingerprint, found.cut.fingerprint]
            for each, found in self.artifacts.items()
        ]
        rules = self.config.sweep.model_dump(mode="json", include={"score", "band", "early_stopping"})
        return self.base.run.artifact("sweep", VERSIONS["sweep"], rules, parts)

    def stages(self) -> list[Stage]:
        """What the sweep does, for `status`: stages that trials share count once. Early stopping leaves samples out."""
        shared = merged([planned(artifacts) for artifacts in self.artifacts.values()])
        made = [each for each in shared if each.stage not in ("privacy", "report")]
        return [*made, Stage("sweep", "artifact", "table", [self.results.key])]

    @property
    def rungs(self) -> list[float]:
        """Fractions of N_G after which trials are compared; the last one is 1."""
        early = self.config.sweep.early_stopping
        return [*(early.after if early else []), 1.0]

    def goal(self, setting: Setting, share: float) -> int:
        """Number of samples of a trial at a rung, rounded up to whole shards."""
        extract = self.artifacts[setting].config.extract
        shards = math.ceil(round(share * extract.samples / extract.shard_size, 9))
        return shards * extract.shard_size


def survivors(values: dict[Setting, float], keep: float) -> list[Setting]:
    """The best ⌈keep · n⌉ settings of a rung, including all ties with the last of them, in the order of `values`."""
    last = sorted(values.values(), reverse=True)[math.ceil(keep * len(values)) - 1]
    return [setting for setting, value in values.items() if value >= last]
