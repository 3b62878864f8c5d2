"""The configuration of an audit: all sections, and the checks between them."""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import BaseModel, Field, model_validator

from side_ray.config.base import Section, omitted_by_default
from side_ray.config.cluster import ClusterSection, ReportSection, RunSection, StorageSection
from side_ray.config.data import DataSection
from side_ray.config.dpm import DpmSection
from side_ray.config.extract import ExtractSection, GivenSection
from side_ray.config.score import ScoreSection
from side_ray.config.studies import ControlSection, PrivacySection, SweepSection, TheorySection
from side_ray.config.surrogate import SurrogateSection
from side_ray.errors import UserError, check_credentials, masked

MOST_SHARDS = 10**6
"""Files of one condition."""


def _check_credentials(value: Any, key: str) -> None:
    """Raise ValueError if a value holds credentials in a URL."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_credentials(name, key)
            _check_credentials(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_credentials(inner, key)
    elif isinstance(value, str):
        try:
            check_credentials(value, key)
        except UserError as error:
            raise ValueError(str(error)) from None


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
        return values  # the keys' own checks report it
    samples = -(-each * classes // size) * size
    if extract.get("samples") not in (None, samples):
        raise ValueError(
            f"extract.samples: {extract['samples']}, but extract.samples_per_target makes it {samples}; give one of them"
        )
    return {**values, "extract": {**extract, "samples": samples}}


class Config(Section):
    """The configuration of one audit. It is frozen, because the fingerprints of the stages are computed from it."""

    run: RunSection
    data: DataSection
    given: GivenSection | None = omitted_by_default(None)
    dpm: DpmSection = Field(default_factory=DpmSection)
    surrogate: SurrogateSection = SurrogateSection()
    extract: ExtractSection
    score: ScoreSection = Field(default_factory=ScoreSection)
    report: ReportSection = Field(default_factory=ReportSection)
    storage: StorageSection = StorageSection()
    cluster: ClusterSection = ClusterSection()
    theory: TheorySection = TheorySection()
    privacy: PrivacySection = PrivacySection()
    control: ControlSection | None = omitted_by_default(None)
    sweep: SweepSection = SweepSection()

    @property
    def compares_flips(self) -> bool:
        """Whether samples are compared in both orientations (`score.flips`)."""
        if self.score.flips == "auto":
            return self.given is None and self.dpm.kind == "train" and self.dpm.flips
        return self.score.flips

    @property
    def unknown_training(self) -> bool:
        """Whether the samples come from a model that was not made here, so that nobody knows how its training changed images."""
        return self.given is not None or self.dpm.kind == "import"

    @property
    def probes_flips(self) -> bool:
        """Whether nobody has said how the training images were flipped, so that some samples are probed."""
        return self.score.flips == "auto" and self.unknown_training

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, values: Any) -> Any:
        _check_credentials(values, "")
        return values

    @model_validator(mode="before")
    @classmethod
    def _samples_of_targets(cls, values: Any) -> Any:
        return _with_samples(values)

    @model_validator(mode="after")
    def _between_sections(self) -> Self:
        if self.given is None:
            self._check_sampling()
        elif self.control:
            raise ValueError("control: guides a second DPM, but with `given` there is none to sample from; drop it")
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
        for key, count in (("extract.samples", self.extract.samples), ("surrogate.synthetic", surrogate.synthetic)):
            if count // size > MOST_SHARDS:
                raise ValueError(
                    f"{key}: {count:,} images are more than {MOST_SHARDS:,} shards; raise extract.shard_size"
                )
        for key in ("base_lambdas", "base_interval"):
            if getattr(self.extract, key) is not None and self.dpm.base is None:
                raise ValueError(
                    f"extract.{key}: is for extrapolation from a base model; give it as dpm.base, or drop it"
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
        if surrogate.kind == "lora" and self.dpm.kind not in ("train", "import"):
            raise ValueError(
                f"surrogate.kind: lora fine-tunes a U-Net, and dpm.kind {self.dpm.kind} has none; use classifier"
            )
        if surrogate.kind == "lora" and self.control:
            raise ValueError(
                "control: guides a second DPM by the audit's classifiers, and a LoRA surrogate fits its own DPM alone; drop it"
            )
        if self.control and self.dpm.kind == "import":
            raise ValueError(
                "control: trains a second DPM like the audited one, but how an imported model was trained is not known; drop it"
            )
        if self.control and set(self.control.lambdas or []) - set(
            self.extract.lambdas + (self.extract.ti_lambdas or [])
        ):
            raise ValueError(
                "control.lambdas: holds a λ that the audit does not sample; take them from extract.lambdas"
            )
        if surrogate.features == "sscd" and not (surrogate.encoder or self.score.option("checkpoint")):
            raise ValueError(
                "surrogate.encoder: features sscd need the path of SSCD weights, here or as score.checkpoint"
            )

    @property
    def of_base(self) -> "Config | None":
        """The config of an audit of the base model (`dpm.base`); None without one."""
        section = None if self.given else self.dpm.of_base
        return None if section is None else self.model_copy(update={"dpm": section})

    @property
    def label_weights(self) -> dict[str, str]:
        """Paths of the weights that the surrogate's labels are made with, by config key."""
        surrogate = self.surrogate
        found = {"surrogate.teacher": surrogate.teacher}
        if surrogate.features in ("sscd", "clip"):
            key = "surrogate.encoder" if surrogate.encoder else "score.checkpoint"
            found[key] = surrogate.encoder or self.score.option("checkpoint")
        return {key: path for key, path in found.items() if path is not None}

    def trusts(self, key: str) -> bool:
        """Whether TorchScript at the path of a config key may be run."""
        if key == "surrogate.encoder":
            return self.surrogate.trust_encoder
        return key == "score.checkpoint" and bool(self.score.option("trust_checkpoint"))

    def to_yaml(self) -> str:
        """The resolved config as YAML; `load_config` reads it back to an equal config."""
        return masked(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
