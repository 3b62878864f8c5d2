"""One trial of a sweep: samples and scores its condition shard by shard, and reports its metrics after each shard."""

from dataclasses import dataclass
from typing import Any

from side_ray.errors import Damaged, RunError, UserError, one_line
from side_ray.execution.metrics import gauges
from side_ray.execution.repair import repairing
from side_ray.execution.search_actors import SearchActors
from side_ray.execution.shard_pool import ShardActor, Task
from side_ray.registry import Carrier
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Artifact
from side_ray.runs.scores import read_cut, read_shard
from side_ray.stages.extract import Generator, GeneratorSpec, generator_spec, sampling_job
from side_ray.stages.score import Scorer, ScorerSpec, levels_of, scorer_spec, scoring_job
from side_ray.statistics.bands import CALIBRATED, Bands, bands_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.scores import ConditionScores, condition_metrics, cut_metrics, join
from side_ray.studies.sweep_plan import Setting

SCORES = ("ams", "ums", "ums_best")


@dataclass(frozen=True)
class TrialSpec(Carrier):
    """Everything that a trial needs, by path. Its shards are the same as those of an audit of the condition."""

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
    """`metrics` (as of a condition in `metrics.json`) and `notes` at `goal` samples; None before the trial has reached them."""
    try:
        return results.read_json(result_key(name, goal))
    except (FileNotFoundError, Damaged):
        return None


def result_key(name: str, goal: int) -> str:
    """Path of a trial's result at `goal` samples, relative to the directory of the sweep."""
    return f"trials/{name}/{goal}.json"


def trial_spec(setting: Setting, artifacts: Artifacts, results: Artifact, search: SearchActors) -> TrialSpec:
    """The trial of a setting. `artifacts`: those of the setting's config."""
    condition, levels = setting.condition, levels_of(artifacts)
    samples, scores, hits = artifacts.samples(condition), artifacts.scores(condition), artifacts.hits(condition)
    return TrialSpec(
        setting.name,
        results,
        generator_spec(artifacts, [sampling_job(condition, artifacts, samples)]),
        scorer_spec(artifacts, [scoring_job(artifacts, samples, scores, hits, levels)], search),
        bands_of(artifacts.config),
        read_cut(artifacts),
        artifacts.distinct["member"],
    )


class Trial:
    """Makes the missing shards of one trial and reads the scores of each."""

    def __init__(self, spec: TrialSpec) -> None:
        self.spec = spec
        (self.job,) = spec.scorer.jobs
        self.notes: set[str] = set()
        self._actors: dict[type[ShardActor], ShardActor] = {}
        self._list_shards()

    def shard(self, index: int) -> ConditionScores:
        """The scores of one shard, which is sampled and scored first if it does not exist.

        Raises:
            RunError: it cannot be sampled or scored.
        """
        return repairing(self.job.output.store, lambda: self._shard(index), lambda damage: self._list_shards())

    def _shard(self, index: int) -> ConditionScores:
        if index not in self._scored:
            if index not in self._sampled:
                self._make(Generator, self.spec.generator, index)
            self._make(Scorer, self.spec.scorer, index)
        assert self.job.hits is not None
        return read_shard(self.spec.scorer.score, self.job.output, self.job.hits, index)

    def _list_shards(self) -> None:
        self._sampled, self._scored = self.job.samples.present(), self.job.output.present()

    def _make(self, kind: type[Any], spec: Any, index: int) -> None:
        if kind not in self._actors:
            self._actors[kind] = kind(spec)
        actor, task = self._actors[kind], Task(0, index)
        row = actor.new_row(task)
        try:
            actor.make(task, row)
        except (Damaged, UserError):
            raise
        except Exception as error:
            raise RunError(one_line(error)) from error
        if row["note"]:
            self.notes.add(row["note"])


def run_trial(parameters: dict[str, Any], trials: dict[str, TrialSpec]) -> None:
    """Ray Tune's function trainable for a trial. Existing shards and results are only read.

    Args:
        parameters: `setting` with `trial` (name) and `goal` (number of samples); its other entries are for display only.
        trials: the trials by name.
    """
    from ray import tune

    setting = parameters["setting"]
    spec, goal = trials[setting["trial"]], setting["goal"]
    found = spec.result(goal)
    if found is not None:
        tune.report(progress(found["metrics"], goal))
        return
    trial, scores = Trial(spec), None
    for index in range(goal // trial.job.output.rows):
        shard = trial.shard(index)
        scores = shard if scores is None else join([scores, shard])
        so_far = progress(cut_metrics(scores, spec.bands, spec.cut, train_size=spec.train_size), scores.best.size)
        _set_gauges(spec.name, so_far)
        if index + 1 == goal // trial.job.output.rows:
            # Written before the last report, after which Tune may treat the trial as finished.
            metrics = condition_metrics(scores, spec.bands, spec.cut, train_size=spec.train_size)
            spec.results.write_json(result_key(spec.name, goal), {"metrics": metrics, "notes": sorted(trial.notes)})
        tune.report(so_far)


def progress(metrics: dict[str, Any], samples: int) -> dict[str, Any]:
    """A trial's intermediate result: `samples`, and each score in % by band, by cumulative band and at the calibrated cut."""
    cumulative = {f"cumulative-{name}": entry for name, entry in metrics["cumulative"].items()}
    cuts = {**metrics["bands"], **cumulative, CALIBRATED: metrics["calibrated"]}
    shares = {score: {name: 100 * entry[score] for name, entry in cuts.items()} for score in SCORES}
    return {"samples": samples, **shares}


_GAUGES: dict[str, Any] = {}


def _set_gauges(name: str, so_far: dict[str, Any]) -> None:
    """Set the trial's gauges on Ray's metrics endpoint."""
    if not _GAUGES:
        _GAUGES.update(gauges("trial", {"samples": "Scored samples of a trial"}, ("trial",)))
        about = {f"{score}_percent": f"{score} of a trial's samples so far" for score in SCORES}
        _GAUGES.update(gauges("trial", about, ("trial", "band")))
    _GAUGES["samples"].set(so_far["samples"], {"trial": name})
    for score in SCORES:
        for band, share in so_far[score].items():
            _GAUGES[f"{score}_percent"].set(share, {"trial": name, "band": band})
