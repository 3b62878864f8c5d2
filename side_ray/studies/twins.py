"""Class-conditional twins of the DPM: same images, network and training, conditioned on true, random or unique labels."""

from typing import Any, get_args

import numpy as np

from side_ray.algorithm import run_until
from side_ray.config import Config
from side_ray.diffusion.condition import Kind
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.report.table import metrics_csv
from side_ray.report.twins import twins_figure, twins_text
from side_ray.runs.artifacts import VERSIONS, Artifacts
from side_ray.runs.plan import Condition
from side_ray.runs.run import Artifact
from side_ray.runs.scores import read_conditions, read_cut
from side_ray.statistics.bands import bands_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.intervals import clopper_pearson, distinct_interval, mcnemar
from side_ray.statistics.scores import ConditionScores, reaches

SCHEMA = 1
KINDS: tuple[Kind, ...] = get_args(Kind)


def run_twins(config: Config, reporter: Reporter) -> list[str]:
    """Audit the class-conditional twins of the DPM and compare them. Returns lines for the terminal."""
    artifact, text = twins(config, reporter)
    return [text, f"twins: {artifact.store.uri}/{artifact.key}/twins.md"]


def twins(config: Config, reporter: Reporter) -> tuple[Artifact, str]:
    """Audit the DPM with each class condition; write twins.json, twins.csv, a figure and a text.

    Returns:
        The artifact and the text.

    Raises:
        UserError: `dpm.kind` is not `train`, or samples are given. See also the stages.
    """
    if config.given or config.dpm.kind != "train":
        raise UserError("dpm.kind: twins have to be trained; use kind train, without `given` samples")
    audits = _audits(config, reporter)
    plain = audits["none"]
    parts = [audits[kind].report.fingerprint for kind in KINDS if kind in audits]
    target = plain.run.artifact("twins", VERSIONS["twins"], parts)
    if not Audit(plain, reporter).has(target, content=True):
        cut = read_cut(plain)
        scores = {kind: read_conditions(artifacts) for kind, artifacts in audits.items()}
        found = {
            "schema": SCHEMA,
            "cut": cut.value,
            "similarity": config.score.similarity,
            "train_size": plain.distinct["member"],
            "twins": [_twin(kind, audits[kind], scores, cut) for kind in KINDS if kind in audits],
        }
        target.write_json("twins.json", found)
        target.write("twins.csv", _csv(audits).encode())
        target.write("twins.svg", twins_figure(found).svg.encode())
        target.write("twins.md", twins_text(found).encode())
        target.finish(twins=len(audits))
    plain.run.point_latest(twins=target.key)
    return target, target.store.read(f"{target.key}/twins.md").decode()


def _audits(config: Config, reporter: Reporter) -> dict[Kind, Artifacts]:
    """The audit of each twin. The config's own audit runs last, so that `latest.json` and `config.yaml` describe it."""
    own = config.dpm.condition
    audits: dict[Kind, Artifacts] = {}
    for kind in sorted(KINDS, key=lambda kind: (kind == own, kind == "labels")):
        # Whether there are labels is known after the first twin has prepared the images.
        if kind == "labels" and audits and not next(iter(audits.values())).prepare.info()["classes"]:
            reporter.warn("twins: the images have no labels, so there is no twin with true labels")
            continue
        twin = config.model_copy(update={"dpm": config.dpm.model_copy(update={"condition": kind})})
        reporter.say(f"twins: condition {kind}")
        audits[kind] = run_until("report", twin, reporter).artifacts
    return audits


def _twin(
    kind: Kind, artifacts: Artifacts, scores: dict[Kind, dict[Condition, ConditionScores]], cut: Cut
) -> dict[str, Any]:
    """Results of one twin: its training, and each condition at the unconditional DPM's cut and in the common bands."""
    metrics = artifacts.report.read_json("metrics.json")
    info = artifacts.dpm.info()
    larger = bands_of(artifacts.config).larger_is_closer
    rows = []
    for each, measured in zip(metrics["conditions"], scores[kind].items(), strict=True):
        condition, found = measured
        row = {"method": each["method"], "lambda": each["lambda"], "n": each["n"]}
        row |= {"common": _at(found, cut, larger, metrics["train_size"]), "own": each["calibrated"]}
        row |= {"cumulative": each["cumulative"], "bands": each["bands"]}
        if kind != "none":
            plain = scores["none"][condition]
            test = mcnemar(reaches(found.best, cut, larger), reaches(plain.best, cut, larger))
            row["against_unconditional"] = {
                "only_this": test.only_a,
                "only_unconditional": test.only_b,
                "p_value": test.p_value,
            }
        rows.append(row)
    return {
        "condition": kind,
        "classes": _classes(artifacts),
        "dpm": artifacts.dpm.key,
        "report": artifacts.report.key,
        "steps": info["steps"],
        "final_loss": info["final_loss"],
        "own_cut": metrics["cut"],
        "conditions": rows,
    }


def _at(scores: ConditionScores, cut: Cut, larger_is_closer: bool, train_size: int) -> dict[str, Any]:
    """AMS, and UMS by best match, at the cut of another twin, with the same measures on the holdout images."""
    n = len(scores.best)
    matches = reaches(scores.best, cut, larger_is_closer)
    ids, counts = np.unique(scores.best_id[matches], return_counts=True)
    count, distinct = int(matches.sum()), len(ids)
    low, high = distinct_interval(counts, n, limit=train_size)
    entry = {
        "ams": count / n,
        "ams_count": count,
        "ams_ci": list(clopper_pearson(count, n)),
        "ums_best": distinct / n,
        "ums_best_count": distinct,
        "ums_best_ci": [low / n, high / n],
    }
    assert scores.holdout_best is not None
    false = int(reaches(scores.holdout_best, cut, larger_is_closer).sum())
    return entry | {"holdout_ams": false / n, "holdout_count": false, "holdout_ci": list(clopper_pearson(false, n))}


def _classes(artifacts: Artifacts) -> int | None:
    dpm, info = artifacts.config.dpm, artifacts.prepare.info()
    return {"none": None, "labels": info["classes"], "random": dpm.condition_classes, "unique": info["member"]}[
        dpm.condition
    ]


def _csv(audits: dict[Kind, Artifacts]) -> str:
    """The concatenated metrics.csv of all twins, with a first column `condition`."""
    lines: list[str] = []
    for kind in KINDS:
        if kind in audits:
            header, *rows = metrics_csv(audits[kind].report.read_json("metrics.json")).splitlines()
            lines += [] if lines else [f"condition,{header}"]
            lines += [f"{kind},{row}" for row in rows]
    return "\n".join(lines) + "\n"
