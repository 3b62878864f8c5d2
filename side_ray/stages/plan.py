"""What an audit consists of: its conditions, their shards, and where each artifact of it lies. No Ray in here."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from side_ray.config import Config, Method
from side_ray.errors import UserError
from side_ray.run import Artifact, Run
from side_ray.sources.base import Source
from side_ray.sources.pools import open_pools
from side_ray.stages.shards import ShardSet
from side_ray.storage import open_store

# A stage's number goes up when its output changes for the same config: old artifacts are then left alone.
VERSIONS = {"prepare": 1, "dpm": 1, "synthetic": 1, "surrogate": 1, "samples": 1, "scores": 1, "report": 1}
VERSIONS |= {"theory": 1, "twins": 1, "control": 1, "control_samples": 1, "control_scores": 1}

CONTROL = "control.json"


@dataclass(frozen=True, order=True)
class Condition:
    """One way of sampling: a method and its guidance scale λ."""

    method: Method
    scale: float

    @property
    def name(self) -> str:
        return f"method={self.method}/lambda={self.scale}"


def conditions(config: Config) -> list[Condition]:
    """Every condition of the audit: Random first, then OL-TI and SIDE by ascending λ."""
    methods: list[Method] = [method for method in ("random", "ti", "td") if method in config.extract.methods]
    return [Condition(method, scale) for method in methods for scale in config.extract.scales_of(method)]


class Artifacts:
    """Paths of everything that a config makes, each named by the fingerprint of what it depends on."""

    def __init__(self, config: Config, run: Run) -> None:
        self.config = config
        self.run = run

    def _artifact(self, stage: str, *parts: Any) -> Artifact:
        return self.run.artifact(stage, VERSIONS[stage], *parts)

    @cached_property
    def pools(self) -> tuple[Source, ...]:
        """Where the images come from; empty for digits."""
        return open_pools(self.config.data, self.config.storage)

    @cached_property
    def prepare(self) -> Artifact:
        # The content counts, not where it lies.
        content = [pool.identity() for pool in self.pools]
        return self._artifact("prepare", self.config.data.settings(), self.config.run.seed, *content)

    @cached_property
    def dpm(self) -> Artifact:
        dpm = self.config.dpm
        if dpm.kind == "import":
            return self._artifact("dpm", "import", _content_hash(self.config))
        if dpm.kind == "optimal":
            return self._artifact("dpm", "optimal", dpm.schedule, dpm.timesteps, self.prepare.fingerprint)
        settings = dpm.model_dump(mode="json", exclude={"checkpoint_every", "path"} | dpm.condition_defaults())
        return self._artifact("dpm", settings, self._precision, self.config.run.seed, self.prepare.fingerprint)

    @cached_property
    def synthetic(self) -> ShardSet:
        return self._shards(self._artifact("synthetic", "synthetic", *self._sampling))

    @cached_property
    def surrogate(self) -> Artifact:
        settings = self.config.surrogate.model_dump(mode="json", exclude={"checkpoint_every"})
        return self._artifact("surrogate", settings, self.synthetic.fingerprint, self.prepare.fingerprint)

    def samples(self, condition: Condition) -> ShardSet:
        """Shards of one condition. Random's do not depend on any classifier, OL-TI's not on the surrogate labels."""
        classifier: list[Any] = []
        if condition.method == "td":
            classifier = [self.surrogate.fingerprint]
        elif condition.method == "ti":
            fields = {"arch", "stem", "width", "ti_steps", "batch_size", "lr", "lr_schedule", "weight_decay"}
            classifier = [self.config.surrogate.model_dump(mode="json", include=fields), self.prepare.fingerprint]
        artifact = self._artifact("samples", "extract", condition.method, *self._sampling, *classifier)
        return self._shards(artifact.child(condition.name))

    def scores(self, condition: Condition) -> ShardSet:
        """Scores of one condition's samples, shard for shard."""
        # The hits hold those of the calibrated cut, which the synthetic set's size and the rate decide.
        cut = [self.cut.fingerprint, self.config.surrogate.synthetic, self.config.score.false_match_rate]
        bands = self.config.score.model_dump(mode="json", include={"bands"})
        artifact = self._artifact("scores", *self._scoring, bands, cut, self.samples(condition).fingerprint)
        return self._shards(artifact.child(condition.name))

    @cached_property
    def cut(self) -> ShardSet:
        """Scores of the synthetic set against the calibration images; they set the calibrated cut."""
        artifact = self._artifact("scores", *self._scoring, self.synthetic.fingerprint)
        return self._shards(artifact.child("method=synthetic/lambda=0.0"))

    @cached_property
    def report(self) -> Artifact:
        parts = [self.scores(each).fingerprint for each in conditions(self.config)]
        names = [each.name for each in conditions(self.config)]
        settings = self.config.model_dump(mode="json", exclude=self._not_reported)
        return self._artifact("report", settings, parts, names, self.cut.fingerprint)

    @property
    def _not_reported(self) -> dict[str, Any]:
        """What of the config a report does not depend on, and keys at defaults that older reports do not know."""
        left_out: dict[str, Any] = dict.fromkeys(("cluster", "storage", "run", "theory"), True)
        left_out["dpm"] = self.config.dpm.condition_defaults()
        left_out["data"] = set() if self.config.data.skip else {"skip"}
        return left_out if self.config.control else left_out | {"control": True}

    @cached_property
    def theory(self) -> Artifact:
        """The theory's quantities on this DPM and its members."""
        settings = self.config.theory.model_dump(mode="json")
        return self._artifact("theory", settings, self.config.run.seed, self.dpm.fingerprint, self.prepare.fingerprint)

    @cached_property
    def control(self) -> Artifact:
        """What a DPM of other images gives under the same classifiers."""
        assert self.config.control is not None
        settings = self.config.control.model_dump(mode="json")
        parts = [self.scores(each).fingerprint for each in conditions(self.config)]
        return self._artifact("control", settings, parts, self.dpm.fingerprint, self.prepare.fingerprint)

    def _shards(self, artifact: Artifact) -> ShardSet:
        return ShardSet(artifact.store, artifact.key, artifact.fingerprint, self.config.extract.shard_size)

    @property
    def _precision(self) -> str:
        return self.config.cluster.precision

    @cached_property
    def _sampling(self) -> list[Any]:
        # The batch size is here because a network's last bits depend on it.
        fields = {"sampler", "steps", "eta", "shard_size", "batch_size"}
        settings = self.config.extract.model_dump(mode="json", include=fields)
        return [settings, self._precision, self.config.run.seed, self.dpm.fingerprint]

    @cached_property
    def _scoring(self) -> list[Any]:
        fields = {"similarity", "neighbors", "checkpoint", "preprocessing"}
        return [self.config.score.model_dump(mode="json", include=fields), self.prepare.fingerprint]


def _content_hash(config: Config) -> str:
    """SHA-256 over the imported model's files: the same path with other weights is another victim."""
    assert config.dpm.path is not None
    store = open_store(config.dpm.path, endpoint=config.storage.endpoint, region=config.storage.region)
    entries = sorted(store.list(), key=lambda entry: entry.key)
    if not entries:
        raise UserError(f"dpm.path: {config.dpm.path} holds no files; give the directory of a diffusers pipeline")
    digest = hashlib.sha256()
    for entry in entries:
        if Path(entry.key).suffix in {".json", ".safetensors"}:
            digest.update(entry.key.encode() + b"\0")
            digest.update(hashlib.sha256(store.read(entry.key)).digest())
    return digest.hexdigest()
