"""Step: separate the effect of the model from that of the classifiers, with a DPM of other images that they guide too."""

from typing import Any

from side_ray.errors import naming
from side_ray.execution.audit import Audit
from side_ray.execution.search_actors import SearchActors
from side_ray.runs.artifacts import CONTROL, Artifacts
from side_ray.runs.control import (
    control_artifacts,
    control_conditions,
    control_hits,
    control_samples,
    control_scores,
)
from side_ray.runs.scores import read_cut, read_scores
from side_ray.stages.extract import run_sampling, sampling_job
from side_ray.stages.prepare import prepare
from side_ray.stages.score import levels_of, run_scoring, scoring_job
from side_ray.stages.train_dpm import train_dpm
from side_ray.statistics.bands import bands_of
from side_ray.statistics.control import LEVEL, compare_sets, holm
from side_ray.statistics.scores import condition_metrics, reaches


def control(audit: Audit) -> None:
    """Train the control DPM, sample it and score its samples as the audit does. Does nothing without a section `control`.

    Raises:
        UserError: the source does not hold enough other images.
        RunError: training or some shards failed. Finished work is kept.
    """
    if audit.config.control is None:
        return
    artifacts, other = audit.artifacts, audit.of(control_artifacts(audit.artifacts))
    audit.reporter.say("control: train, sample and score a DPM of other images")
    with naming("control.members"):
        prepare(other, artifacts.prepare)
    train_dpm(other)
    many = [(each, control_samples(artifacts, other.artifacts, each)) for each in control_conditions(audit.config)]
    jobs = [sampling_job(each, artifacts, samples) for each, samples in many]
    run_sampling(audit, jobs, "control: extract", other.artifacts.dpm)
    levels = levels_of(artifacts)
    with SearchActors(artifacts) as search:
        scored = [
            scoring_job(
                artifacts,
                samples,
                control_scores(artifacts, other.artifacts, each),
                control_hits(artifacts, other.artifacts, each),
                levels,
            )
            for each, samples in many
        ]
        run_scoring(audit, scored, search, "control: score")
    if not audit.has(artifacts.control):
        artifacts.control.write_json(CONTROL, control_metrics(artifacts))
        artifacts.control.finish()


def control_metrics(artifacts: Artifacts) -> dict[str, Any]:
    """The entry `control` of `metrics.json`: the control DPM, the matches of each condition with the members and with `holdout`,
    and whether matches with members are significantly more frequent.
    """
    other, bands, sizes = control_artifacts(artifacts), bands_of(artifacts.config), artifacts.sizes
    cut = read_cut(artifacts)
    rows, p_values = [], []
    for each in control_conditions(artifacts.config):
        scores, hits = control_scores(artifacts, other, each), control_hits(artifacts, other, each)
        found = read_scores(artifacts, scores, hits)
        assert found.holdout_best is not None
        members, holdout = (reaches(values, cut, bands.larger_is_closer) for values in (found.best, found.holdout_best))
        test = compare_sets(members, holdout, sizes["member"], sizes["holdout"])
        numbers = condition_metrics(found, bands, cut, train_size=artifacts.distinct["member"])
        row = {"method": each.method, "lambda": each.scale, "n": numbers["n"], "calibrated": numbers["calibrated"]}
        rows.append(
            row | {"only_members": test.only_members, "only_holdout": test.only_holdout, "p_value": test.p_value}
        )
        p_values.append(test.p_value)
    for row, adjusted in zip(rows, holm(p_values), strict=True):
        row["p_adjusted"] = adjusted
    return {
        "members": other.prepare.info()["member"],
        "dpm": other.dpm.key,
        "conditions": rows,
        "rises": any(row["p_adjusted"] < LEVEL for row in rows),
    }
