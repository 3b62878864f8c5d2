"""Is it the model or the classifier? A DPM of other images, guided by the classifiers of the audited one."""

from typing import Any

from side_ray.config import Config
from side_ray.errors import naming
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import CONTROL, Artifacts
from side_ray.runs.control import control_artifacts, control_conditions, control_samples, control_scores
from side_ray.runs.scores import read_cut, read_scores
from side_ray.stages.extract import Group as SampleGroup
from side_ray.stages.extract import classifier_of, sample_groups
from side_ray.stages.prepare import prepare
from side_ray.stages.score import Group as ScoreGroup
from side_ray.stages.score import score_groups
from side_ray.stages.train_dpm import train_dpm
from side_ray.statistics.bands import bands_of
from side_ray.statistics.control import LEVEL, compare_sets, holm
from side_ray.statistics.cut import Cut
from side_ray.statistics.scores import condition_metrics, reaches


def control(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Train the control DPM, sample it and score its samples as the audit does; nothing where the config does not ask.

    Raises:
        UserError: the source does not hold enough other images.
        RunError: training or shards failed; what is finished stays finished.
    """
    if config.control is None:
        return
    other = control_artifacts(config, artifacts)
    reporter.say("control: a DPM of other images")
    with naming("control.members"):
        prepare(other.config, other, reporter)
    train_dpm(other.config, other, reporter)
    wanted = control_conditions(config)
    groups = [
        SampleGroup(control_samples(artifacts, other, each), "extract", each.scale, classifier_of(each, artifacts))
        for each in wanted
    ]
    sample_groups(config, artifacts, groups, config.extract.samples, "control: extract", reporter, other.dpm)
    levels = bands_of(config).levels(read_cut(config, artifacts).value)
    scored = [
        ScoreGroup(
            control_samples(artifacts, other, each),
            control_scores(artifacts, other, each),
            ("member", "holdout"),
            levels,
        )
        for each in wanted
    ]
    score_groups(config, artifacts, scored, "control: score", reporter)
    target = artifacts.control
    if not target.done:
        target.write_json(CONTROL, control_metrics(config, artifacts, read_cut(config, artifacts)))
        target.finish()


def control_metrics(config: Config, artifacts: Artifacts, cut: Cut) -> dict[str, Any]:
    """`metrics.json`'s `control`: the control DPM, each condition's matches with the members and with `holdout`, and whether
    the first rise above the second.
    """
    other, bands, sizes = control_artifacts(config, artifacts), bands_of(config), artifacts.prepare.info()
    rows, p_values = [], []
    for each in control_conditions(config):
        found = read_scores(config, control_scores(artifacts, other, each), artifacts.sample_shards)
        assert found.holdout_best is not None
        members, holdout = (reaches(values, cut, bands.larger_is_closer) for values in (found.best, found.holdout_best))
        test = compare_sets(members, holdout, sizes["member"], sizes["holdout"])
        numbers = condition_metrics(found, bands, cut, train_size=sizes["member"])
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
