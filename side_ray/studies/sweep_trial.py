"""One trial of a sweep: samples its condition and scores it shard by shard, and says at each shard how it stands."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from side_ray.config import Config
from side_ray.diffusion.draw import DrawSettings
from side_ray.errors import RunError
from side_ray.execution.shard_pool import ShardActor
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Artifact
from side_ray.runs.scores import Split, read_shard
from side_ray.runs.shards import DamagedShard
from side_ray.stages.extract import Generator, GeneratorSpec, Group, group_of
from side_ray.stages.score import Group as ScoreGroup
from side_ray.stages.score import Scorer, ScorerSpec
from side_ray.statistics.bands import CALIBRATED, Bands, bands_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.scores import ConditionScores, condition_metrics, cut_metrics, join
from side_ray.studies.sweep_plan import Setting

MOST_REPAIRS = 5
SCORES = ("ams", "ums", "ums_best")


@dataclass(frozen=True)
class TrialSpec:
    """Everything that a trial needs, by path. Its shards are those of an audit of the same condition."""

    name: str
    results: Artifact
    generator: GeneratorSpec
    scorer: ScorerSpec
    bands: Bands
    cut: Cut
    train_size: int

    def result(self, goal: int) -> dict[str, Any] | None:
        """See `read_result`."""
        return read_result(self.results, self.name, goal)


def read_result(results: Artifact, name: str, goal: int) -> dict[str, Any] | None:
    """`metrics` (as of an audit's condition) and `notes` at `goal` samples; None before the trial got there."""
    try:
        return results.read_json(result_key(name, goal))
    except FileNotFoundError:
        return None


def result_key(name: str, goal: int) -> str:
    """Where a trial's result at `goal` samples lies, relative to the sweep's directory."""
    return f"trials/{name}/{goal}.json"


def trial_spec(
    setting: Setting, artifacts: Artifacts, results: Artifact, cut: Cut, sizes: dict[Split, int], servers: list[Any]
) -> TrialSpec:
    """The trial of a setting; `artifacts` are those of its own config."""
    config: Config = artifacts.config
    condition, threads = setting.condition, config.cluster.actor_cpus
    group: Group = group_of(condition, artifacts)
    bands = bands_of(config)
    scored = ScoreGroup(
        artifacts.samples(condition), artifacts.scores(condition), ("member", "holdout"), bands.levels(cut.value)
    )
    return TrialSpec(
        setting.name,
        results,
        GeneratorSpec(
            artifacts.run.store,
            artifacts.dpm.key,
            [group],
            DrawSettings.of(config.extract, config.cluster.precision),
            config.run.seed,
            threads,
        ),
        ScorerSpec(artifacts.prepare, [scored], config.score, sizes, servers, threads),
        bands,
        cut,
        sizes["member"],
    )


class Trial:
    """Makes the shards that are not there yet, and reads the scores of each."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        self.samples, self.scores = spec.scorer.groups[0].samples, spec.scorer.groups[0].scores
        self.notes: set[str] = set()
        self._actors: dict[type[ShardActor], ShardActor] = {}
        self._look()

    def shard(self, index: int) -> ConditionScores:
        """The scores of one shard, made first where they are missing.

        Raises:
            RunError: it cannot be sampled or scored.
        """
        for _ in range(MOST_REPAIRS):
            try:
                if index not in self._scored:
                    if index not in self._sampled:
                        self._make(Generator, self.spec.generator, index)
                    self._make(Scorer, self.spec.scorer, index)
                return read_shard(self.spec.scorer.score, self.scores, index)
            except DamagedShard as damage:
                self.scores.store.delete(damage.key)
                self._look()
        raise RunError(f"shard {index} is damaged again and again: check the store that the run lies in")

    def _look(self) -> None:
        self._sampled, self._scored = self.samples.present(), self.scores.present()

    def _make(self, kind: type[Any], spec: Any, index: int) -> None:
        if kind not in self._actors:
            self._actors[kind] = kind(spec)
        row = self._actors[kind]({"group": np.array([0]), "shard": np.array([index])})
        error, note = str(row["error"][0]), str(row["note"][0])
        if error.startswith(DamagedShard.__name__):
            raise DamagedShard(self.samples.key(index), error)
        if error:
            raise RunError(error)
        if note:
            self.notes.add(note)


def run_trial(parameters: dict[str, Any], trials: dict[str, TrialSpec]) -> None:
    """A trial's life as Ray Tune's function trainable; what is there already is only read.

    Args:
        parameters: `setting` with `trial` (its name) and `goal` (samples to have); the rest of it is for the reader.
        trials: by name.
    """
    from ray import tune

    setting = parameters["setting"]
    spec, goal = trials[setting["trial"]], setting["goal"]
    found = spec.result(goal)
    if found is not None:
        tune.report(progress(found["metrics"], goal))
        return
    trial, scores = Trial(spec), None
    for index in range(goal // trial.scores.rows):
        shard = trial.shard(index)
        scores = shard if scores is None else join([scores, shard])
        so_far = progress(cut_metrics(scores, spec.bands, spec.cut, train_size=spec.train_size), scores.best.size)
        _show(spec.name, so_far)
        if index + 1 == goal // trial.scores.rows:
            # Before the last report, after which Tune may count the trial as finished.
            metrics = condition_metrics(scores, spec.bands, spec.cut, train_size=spec.train_size)
            spec.results.write_json(result_key(spec.name, goal), {"metrics": metrics, "notes": sorted(trial.notes)})
        tune.report(so_far)


def progress(metrics: dict[str, Any], samples: int) -> dict[str, Any]:
    """What a trial tells while it runs: `samples`, and each score in %, by band, cumulative band and at the calibrated cut."""
    cumulative = {f"cumulative-{name}": entry for name, entry in metrics["cumulative"].items()}
    cuts = {**metrics["bands"], **cumulative, CALIBRATED: metrics["calibrated"]}
    shares = {score: {name: 100 * entry[score] for name, entry in cuts.items()} for score in SCORES}
    return {"samples": samples, **shares}


_GAUGES: dict[str, Any] = {}


def _show(name: str, so_far: dict[str, Any]) -> None:
    """Set the gauges that Ray's metrics endpoint serves to Prometheus."""
    if not _GAUGES:
        from ray.util.metrics import Gauge

        _GAUGES["samples"] = Gauge("side_ray_trial_samples", "Scored samples of a trial", tag_keys=("trial",))
        for score in SCORES:
            _GAUGES[score] = Gauge(
                f"side_ray_trial_{score}_percent", f"{score} of a trial's samples so far", tag_keys=("trial", "band")
            )
    _GAUGES["samples"].set(so_far["samples"], {"trial": name})
    for score in SCORES:
        for band, share in so_far[score].items():
            _GAUGES[score].set(share, {"trial": name, "band": band})
