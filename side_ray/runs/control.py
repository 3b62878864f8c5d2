"""The config and the artifacts of the control: a DPM of other images, guided by the audit's classifiers."""

from typing import Any

from side_ray.config import Config
from side_ray.runs.artifacts import VERSIONS, Artifacts, hits_of
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Run
from side_ray.runs.shards import ShardSet


class _ControlRun(Run):
    """The run directory without updates of `latest.json`, which keeps pointing to the audit's own artifacts."""

    def point_latest(self, **entries: Any) -> None:
        pass


def control_config(config: Config) -> Config:
    """The config that trains the control DPM. Its members follow the audit's three splits in the same seeded order."""
    assert config.control is not None
    data = config.data
    taken = data.members + (0 if data.holdout_path else 2 * data.holdout)
    # Nothing is scored against the control's own unseen splits, so each has one image, the minimum of `prepare`.
    others = {"members": config.control.members or data.members, "holdout": 1, "skip": data.skip + taken}
    return config.model_copy(update={"data": data.model_copy(update=others), "control": None})


def control_artifacts(artifacts: Artifacts) -> Artifacts:
    """The artifacts of the control DPM, in the run directory of the audit."""
    return Artifacts(control_config(artifacts.config), _ControlRun(artifacts.run.store))


def control_conditions(config: Config) -> list[Condition]:
    """The conditions that the control repeats: Random, and the guided ones (all, or those with λ in `control.lambdas`)."""
    assert config.control is not None
    wanted = config.control.lambdas
    guided = [each for each in conditions(config) if each.scale > 0 and (wanted is None or each.scale in wanted)]
    return [Condition("random", 0.0), *guided]


def control_samples(artifacts: Artifacts, other: Artifacts, condition: Condition) -> ShardSet:
    """Samples of the control DPM. Seeds, targets, settings and classifier are those of the audit; only the DPM differs."""
    own = artifacts.samples(condition)
    key = artifacts.run.artifact(
        "control_samples", VERSIONS["control_samples"], own.fingerprint, other.dpm.fingerprint
    ).child(condition.name)
    return ShardSet(key.store, key.key, key.fingerprint, own.rows)


def control_scores(artifacts: Artifacts, other: Artifacts, condition: Condition) -> ShardSet:
    """Scores of the control samples against the members and `holdout` images of the audited DPM."""
    own, samples = artifacts.scores(condition), control_samples(artifacts, other, condition)
    key = artifacts.run.artifact(
        "control_scores", VERSIONS["control_scores"], own.fingerprint, samples.fingerprint
    ).child(condition.name)
    return ShardSet(key.store, key.key, key.fingerprint, own.rows)


def control_hits(artifacts: Artifacts, other: Artifacts, condition: Condition) -> ShardSet:
    """Hits that belong to the control scores."""
    return hits_of(artifacts.run, control_scores(artifacts, other, condition), condition)
