"""The configuration of an audit: one YAML file, checked as a whole before anything starts."""

from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from side_ray.config.base import Section, later
from side_ray.config.cluster import ClusterSection, ReportSection, RunSection, StorageSection
from side_ray.config.data import DataSection
from side_ray.config.dpm import DpmSection
from side_ray.config.extract import ExtractSection, GivenSection
from side_ray.config.score import ScoreSection
from side_ray.config.studies import ControlSection, SweepSection, TheorySection
from side_ray.config.surrogate import SurrogateSection


def _with_samples(values: Any) -> Any:
    """The values with `extract.samples` set from `extract.samples_per_target`, where that is given."""
    extract, surrogate = values.get("extract"), values.get("surrogate") or {}
    if not isinstance(extract, dict) or not isinstance(surrogate, dict) or not extract.get("samples_per_target"):
        return values
    if surrogate.get("labels") == "classifier":
        raise ValueError(
            "extract.samples_per_target: the classes of a classifier are those of the data; give extract.samples instead"
        )
    size = extract.get("shard_size", ExtractSection.model_fields["shard_size"].default)
    classes = surrogate.get("classes", SurrogateSection.model_fields["classes"].default)
    each = extract["samples_per_target"]
    if not all(isinstance(count, int) and count > 0 for count in (size, classes, each)):
        return values  # told of by the keys' own checks
    samples = -(-each * classes // size) * size
    if extract.get("samples") not in (None, samples):
        raise ValueError(
            f"extract.samples: {extract['samples']}, but extract.samples_per_target makes it {samples}; give one of them"
        )
    return {**values, "extract": {**extract, "samples": samples}}


class Config(Section):
    """A whole audit. Frozen: a stage's fingerprint is taken from it."""

    run: RunSection
    data: DataSection
    given: GivenSection | None = later(None)
    dpm: DpmSection = DpmSection()
    surrogate: SurrogateSection = SurrogateSection()
    extract: ExtractSection
    score: ScoreSection = ScoreSection()
    report: ReportSection = Field(default_factory=ReportSection)
    storage: StorageSection = StorageSection()
    cluster: ClusterSection = ClusterSection()
    theory: TheorySection = TheorySection()
    control: ControlSection | None = later(None)
    sweep: SweepSection = SweepSection()

    @model_validator(mode="before")
    @classmethod
    def _samples_of_targets(cls, values: Any) -> Any:
        return _with_samples(values)

    @model_validator(mode="after")
    def _between_sections(self) -> Self:
        if self.given is None:
            self._check_sampling()
        elif self.control:
            raise ValueError("control: guides a second DPM, and here samples are given; drop it")
        if self.score.similarity == "nl2" and self.score.bands == "sscd":
            raise ValueError(
                "score.bands: preset sscd is for score.similarity sscd; use cumulative, paper or bands of your own"
            )
        if self.score.similarity == "sscd" and self.score.bands in ("cumulative", "paper"):
            raise ValueError(
                f"score.bands: preset {self.score.bands} is for score.similarity nl2; use sscd or bands of your own"
            )
        return self

    def _check_sampling(self) -> None:
        surrogate, size = self.surrogate, self.extract.shard_size
        if not self.data.holdout:
            raise ValueError(
                "data.holdout: the calibrated cut and the false-match rate need unseen images; give 1 or more"
            )
        if self.extract.samples % size:
            fix = max(1, round(self.extract.samples / size)) * size
            raise ValueError(
                f"extract.samples: {self.extract.samples} is not a multiple of extract.shard_size ({size}); "
                f"use for example {fix}"
            )
        if surrogate.synthetic % size:
            fix = max(1, round(surrogate.synthetic / size)) * size
            raise ValueError(
                f"surrogate.synthetic: {surrogate.synthetic} is not a multiple of extract.shard_size ({size}); "
                f"use for example {fix}"
            )
        if surrogate.classes > surrogate.synthetic:
            raise ValueError(
                f"surrogate.classes: {surrogate.classes} classes cannot come from {surrogate.synthetic} images; "
                "lower it or raise surrogate.synthetic"
            )
        if self.dpm.condition == "random" and self.dpm.condition_classes > self.data.members:
            raise ValueError(
                f"dpm.condition_classes: {self.dpm.condition_classes} classes for {self.data.members} members; lower it"
            )
        if self.control and self.dpm.kind == "import":
            raise ValueError(
                "control: trains a second DPM like the audited one, whose training an imported model does not tell; drop it"
            )
        if self.control and set(self.control.lambdas or []) - set(
            self.extract.lambdas + (self.extract.ti_lambdas or [])
        ):
            raise ValueError(
                "control.lambdas: holds a λ that the audit does not sample; take them from extract.lambdas"
            )
        if surrogate.features == "sscd" and not (surrogate.encoder or self.score.checkpoint):
            raise ValueError(
                "surrogate.encoder: features sscd need the path of SSCD weights, here or as score.checkpoint"
            )

    @property
    def label_weights(self) -> dict[str, str]:
        """Paths of the weights that the surrogate's labels are made with, by the keys that name them."""
        surrogate = self.surrogate
        found = {"surrogate.teacher": surrogate.teacher}
        if surrogate.features in ("sscd", "clip"):
            key = "surrogate.encoder" if surrogate.encoder else "score.checkpoint"
            found[key] = surrogate.encoder or self.score.checkpoint
        return {key: path for key, path in found.items() if path is not None}

    def to_yaml(self) -> str:
        """The resolved config as YAML that `load_config` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
