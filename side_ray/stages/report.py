"""Step: compute metrics.json, metrics.csv, the figures and index.html from the stored scores."""

from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.diffusion.sampler import sample_seed
from side_ray.errors import Damaged, UserError, bounded, masked, one_line
from side_ray.execution.audit import Audit
from side_ray.execution.derived.ceilings import ceilings_metrics
from side_ray.execution.derived.embed import stored_descriptors
from side_ray.execution.derived.reconstruct import ceiling_metrics
from side_ray.execution.session import machine
from side_ray.report import findings, svg
from side_ray.report.figures import build_figures
from side_ray.report.page import render
from side_ray.report.sections.pairs.explorer import ExplorerOptions
from side_ray.report.sections.pairs.gallery import GalleryOptions
from side_ray.report.table import metrics_csv, rows_csv
from side_ray.results.evidence import add_evidence, descriptor_metrics
from side_ray.results.extracted import SCHEMA as EXTRACTED
from side_ray.results.extracted import closest, members_of
from side_ray.results.opinions.collected import second_opinions
from side_ray.results.pairs.pictures import report_pairs
from side_ray.results.pairs.thumbnails import moved
from side_ray.results.pdf import chromium, print_pdf
from side_ray.results.privacy import Coins, coins_of, losses_of
from side_ray.results.trackers.tracked import track
from side_ray.runs.artifacts import CONTROL, Artifacts
from side_ray.runs.dataset import pixels_digest, read_groups
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import PAGE, PDF, Artifact
from side_ray.runs.scores import find_cut, read_conditions, read_probes
from side_ray.runs.status import spent
from side_ray.similarity import SIMILARITIES, similarity_of
from side_ray.sources.inventory import samples_inventory
from side_ray.stages.label import FOUND
from side_ray.statistics.bands import bands_of
from side_ray.statistics.cut import Cut
from side_ray.statistics.evidence.verdict import without_unseen
from side_ray.statistics.scores import ConditionScores, compare, condition_metrics
from side_ray.training.loop import CURVE

SCHEMA = 1
NETWORKS = ("teacher", "student", "lora", "ol_ti")
"""The parts of the surrogate's artifact."""


def report(audit: Audit) -> None:
    """Write the report, and its page once more as `report.html` at the top of the run; does nothing if they exist.

    Raises:
        Damaged: scores or samples cannot be read.
    """
    artifacts, target = audit.artifacts, audit.artifacts.report
    if not audit.has(target, content=True):
        cut = find_cut(artifacts)
        if cut is not None and not cut.known:
            audit.reporter.warn(_too_few(audit.config, cut))
        scores = read_conditions(artifacts)
        metrics = build_metrics(artifacts, scores, cut)
        q_values = None
        if cut is not None:
            q_values = add_evidence(artifacts, cut, metrics)
            if artifacts.others:
                metrics["descriptors"] = descriptor_metrics(artifacts)
            for note in (*findings.on_base(metrics), *findings.on_rate(metrics)):
                audit.reporter.warn(f"{note.title}: {note.text}")
        else:
            metrics["verdict"] = without_unseen(metrics["train_size"]).as_dict()
        metrics["second_opinions"] = second_opinions(artifacts)
        if audit.config.control:
            metrics["control"] = artifacts.control.read_json(CONTROL)
        target.write_json("metrics.json", metrics)
        target.write("metrics.csv", metrics_csv(metrics).encode())
        found = _extracted(artifacts, metrics, scores, q_values)
        target.write("extracted.csv", rows_csv(found.to_pylist(), found.column_names).encode())
        target.write_table("extracted.parquet", found)
        values = [
            {"method": each.method, "lambda": each.scale, "best": found.best, "holdout_best": found.holdout_best}
            for each, found in scores.items()
        ]
        with ExitStack() as stack:
            files = stack.enter_context(svg.keeping()) if audit.config.report.figures else {}
            figures = build_figures(metrics, curves=_curves(audit), values=values)
        files |= {f"{figure.name}.svg": figure.svg.encode() for figure in figures}
        for name, content in files.items():
            target.write(f"figures/{name}", content)
        gallery, pairs = _pairs(artifacts, metrics, scores, q_values)
        config = audit.config.model_dump(mode="json")
        page = render(metrics, config, figures=figures, gallery=gallery, pairs=pairs)
        target.write("index.html", page.encode())
        target.store.write(PAGE, moved(page, target.key).encode())
        _print(audit, page)
        target.finish(conditions=len(scores))
        audit.reporter.say(f"report: {len(scores)} conditions")
    else:
        newest = target.store.read(f"{target.key}/index.html").decode()
        copy = moved(newest, target.key).encode()
        stale = not target.store.exists(PAGE) or target.store.read(PAGE) != copy
        if stale:
            target.store.write(PAGE, copy)
        if stale or not target.store.exists(PDF):
            _print(audit, newest)
    audit.run.point_latest(report=target.key)
    if audit.config.report.tracker is not None:
        _track(audit, audit.config.report.tracker)


def _track(audit: Audit, tracker: str) -> None:
    """Log the report to a tracker. If that fails, the audit is none the less complete."""
    try:
        if where := track(audit.artifacts, tracker):
            audit.reporter.say(masked(f"report: logged to {tracker}, {where}"))
    except Exception as error:  # whatever another library raises
        audit.reporter.warn(
            bounded(
                f"report.tracker: {tracker} has not logged this audit ({one_line(error)}); the audit itself is complete, "
                "run it again to log it"
            )
        )


def _print(audit: Audit, page: str) -> None:
    """Write `report.pdf`, or remove that of an earlier report."""
    store = audit.run.store
    if audit.config.report.pdf and chromium():
        try:
            store.write(PDF, print_pdf(page))
            return
        except UserError as error:
            audit.reporter.warn(f"{PDF} is not made: {error}")
    if store.exists(PDF):
        store.delete(PDF)


def _extracted(
    artifacts: Artifacts,
    metrics: dict[str, Any],
    scores: dict[Condition, ConditionScores],
    q_values: np.ndarray | None,
) -> pa.Table:
    """The training images of which some sample is a copy, see `results.extracted.SCHEMA`."""
    criterion, similarity = findings.main_criterion(metrics), SIMILARITIES[artifacts.config.score.similarity]
    assert criterion is not None
    conditions = (
        (each.method, each.scale, found.best, found.best_id, criterion.includes(found.best))
        for each, found in scores.items()
    )
    rows = closest(conditions, similarity.larger_is_closer)
    about = members_of(artifacts.run.store, artifacts.prepare.key, [row["train_id"] for row in rows])
    groups = read_groups(artifacts.run.store, artifacts.prepare.key, "member", artifacts.sizes["member"])
    for row in rows:
        row["group_size"] = int(groups.sizes(np.array(row["train_id"])))
        given, number = row["method"] == "given", row["sample_id"]
        row |= about[row["train_id"]]
        row["q_value"] = None if q_values is None else float(q_values[row["train_id"]])
        row["seed"] = None if given else sample_seed(artifacts.config.run.seed, "extract", number)
    return pa.Table.from_pylist(rows, EXTRACTED)


def _pairs(
    artifacts: Artifacts,
    metrics: dict[str, Any],
    scores: dict[Condition, ConditionScores],
    q_values: np.ndarray | None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The pairs that the page shows, see `report_pairs`."""
    criterion, options = findings.main_criterion(metrics), artifacts.config.report
    assert criterion is not None
    within = {each: criterion.includes(found.best) for each, found in scores.items()}
    closest, most = options.options(GalleryOptions).gallery, options.options(ExplorerOptions).pairs
    write = artifacts.report.write
    return report_pairs(artifacts, scores, within, q_values, closest=closest, most=most, write=write)


def _too_few(config: Config, cut: Cut) -> str:
    remedy = "give more samples" if config.given else "raise surrogate.synthetic"
    wanted = round(1 / cut.false_match_rate) * (2 if config.given else 1)
    return (
        f"{cut.n:,} images are too few to know a false-match rate of {cut.false_match_rate:g}; "
        f"{remedy} to {wanted:,} or more, or set score.false_match_rate"
    )


def build_metrics(artifacts: Artifacts, scores: dict[Condition, ConditionScores], cut: Cut | None) -> dict[str, Any]:
    """The contents of metrics.json."""
    config, sizes = artifacts.config, artifacts.sizes
    bands, similarity = bands_of(config), similarity_of(config.score)
    probes = {change: asdict(probe) | {"many": probe.many} for change, probe in read_probes(artifacts).items()}
    random = scores.get(Condition("random", 0.0))
    sample_ids = np.arange(config.extract.samples)
    rows = []
    for each, found in scores.items():
        row: dict[str, Any] = {"method": each.method, "lambda": each.scale}
        row |= condition_metrics(found, bands, cut, train_size=artifacts.distinct["member"])
        if cut is not None and random is not None and random is not found:
            test = compare(found, sample_ids, random, sample_ids, cut, bands.larger_is_closer)
            row["mcnemar"] = {"p_value": test.p_value, "only_this": test.only_a, "only_random": test.only_b}
        rows.append(row)
    return {
        "schema": SCHEMA,
        "similarity": {
            "name": similarity.name,
            "closer": "higher" if bands.larger_is_closer else "lower",
            **similarity.params(),
            "flips": config.compares_flips,
            "bands": bands.resolve(),
        },
        "train_size": sizes["member"],
        "train_distinct": artifacts.distinct["member"],
        "duplicates": artifacts.prepare.info().get("duplicates"),
        "left_out": artifacts.prepare.info().get("left_out"),
        "augmentations": {
            "known": not config.unknown_training,
            "used": ["flips"] if config.compares_flips else [],
            "seen": not similarity.pixel_distances,
        },
        "reconstructions": ceiling_metrics(artifacts, cut, bands.larger_is_closer),
        "ceilings": {name: ceilings_metrics(each) for name, each in artifacts.every.items()},
        "mirrored": probes.pop("mirrored", None),
        "changed": probes,
        "calibration_size": sizes["calibration"],
        "holdout_size": sizes["holdout"],
        **_cut_metrics(config, cut),
        "sources": _sources(artifacts),
        "surrogate": _surrogate(artifacts),
        "provenance": _provenance(artifacts),
        "conditions": rows,
    }


def _cut_metrics(config: Config, cut: Cut | None) -> dict[str, Any]:
    if cut is None:
        return {"cut": None}
    found = {
        "cut": cut.value,
        "cut_n": cut.n,
        "cut_rank": cut.rank,
        "cut_known": cut.known,
        "false_match_rate": cut.false_match_rate,
        "false_match_rate_ci": list(cut.rate_ci),
    }
    return found | ({"cut_source": "every second of the given samples"} if config.given else {})


def _provenance(artifacts: Artifacts) -> dict[str, Any]:
    config = artifacts.config
    libraries = ("side-ray", "ray", "torch", "diffusers", "faiss-cpu", "pyarrow")
    return {
        "run": artifacts.run.store.uri,
        "seed": config.run.seed,
        "artifacts": _made_from(artifacts),
        "sha256": _weight_hashes(artifacts),
        "versions": {name: _version(name) for name in libraries},
        **_model(artifacts),
        "pixels": pixels_digest(artifacts.run.store, artifacts.prepare.key, "member"),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": spent(artifacts.run.store),
        "machine": machine(),
        "config": config.model_dump(mode="json"),
    }


def _model(artifacts: Artifacts) -> dict[str, Any]:
    """Where models on the hub were fetched from, `model` and its `base`; empty for any other."""
    models = {} if artifacts.config.given else {"model": artifacts.dpm, "base": artifacts.base}
    known = {name: each.info() for name, each in models.items() if each is not None}
    return {name: {key: info[key] for key in ("path", "commit")} for name, info in known.items() if "commit" in info}


def _made_from(artifacts: Artifacts) -> dict[str, Any]:
    """The artifacts of this audit, as in `latest.json`, which another command in the same run directory may be changing."""
    many = conditions(artifacts.config)
    found: dict[str, Any] = {
        "prepare": artifacts.prepare.key,
        "samples": {each.name: artifacts.samples(each).directory for each in many},
        "scores": {each.name: artifacts.scores(each).directory for each in many},
        "hits": {each.name: artifacts.hits(each).directory for each in many},
        "descriptors": stored_descriptors(artifacts),
        "ceilings": {name: each.ceilings.directory for name, each in artifacts.every.items()},
    }
    if artifacts.reconstructions:
        again = artifacts.reconstructions.items()
        found["reconstructions"] = {f"split={split}": shards.directory for split, shards in again}
    if not artifacts.config.given:
        found |= {"dpm": artifacts.dpm.key, "surrogate": artifacts.surrogate.key}
        if artifacts.base is not None:
            found["base"] = artifacts.base.key
        if artifacts.latents is not None:
            found["latents"] = artifacts.latents.key
        if artifacts.condition is not None:
            found["condition"] = artifacts.condition.key
    if artifacts.cut_shards:
        found |= {"synthetic": artifacts.synthetic.directory, "strata": artifacts.strata.key}
        coins = coins_of(artifacts)
        if isinstance(coins, Coins):
            found["privacy"] = losses_of(artifacts, coins).directory
    return found


def _sources(artifacts: Artifacts) -> list[dict[str, Any]]:
    """What was found, read and left out of each source; empty for the digits and in runs of the first version."""
    try:
        rows: list[dict[str, Any]] = artifacts.prepare.read_json("info.json").get("sources", [])
    except FileNotFoundError:
        rows = []
    return [*rows, samples_inventory(artifacts.given)] if artifacts.config.given else rows


def _surrogate(artifacts: Artifacts) -> dict[str, Any]:
    """The labels of what guides as SIDE, and on images that it was not trained on the student's accuracy by timestep, or the loss
    of a LoRA surrogate with the image's own label and with another; empty without either."""
    student, lora = (artifacts.surrogate.child(name) for name in ("student", "lora"))
    if not (student.done or lora.done):
        return {}
    section, found = artifacts.config.surrogate, _found_labels(artifacts)
    made_of = {"features": section.features} if section.labels == "cluster" else {}
    told = (
        {"accuracy": student.info()["accuracy"]} if student.done else {"kind": "lora", "losses": lora.info()["losses"]}
    )
    return {"labels": section.labels, **made_of, **found, **told}


def _found_labels(artifacts: Artifacts) -> dict[str, Any]:
    """`labels.json`. Raises Damaged, also where it is missing, so that the labels are made again."""
    try:
        found: dict[str, Any] = artifacts.surrogate.read_json(FOUND)
    except FileNotFoundError:
        raise Damaged([f"{artifacts.surrogate.key}/{FOUND}"], "is missing") from None
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except ModuleNotFoundError:
        return None


def _weight_hashes(artifacts: Artifacts) -> dict[str, str]:
    """SHA-256 of every weight file of the DPM and the surrogate, and of code that opens one, by its path in the run. Raises
    Damaged."""
    models = {artifacts.dpm.key: artifacts.config}
    if artifacts.base is not None and artifacts.config.of_base is not None:
        models[artifacts.base.key] = artifacts.config.of_base
    networks = [
        *(Artifact(artifacts.run.store, key) for key in models),
        *(artifacts.surrogate.child(name) for name in NETWORKS),
    ]
    found = [each.digests() for each in networks if each.done]
    coded = tuple(f"{key}/" for key, config in models.items() if config.dpm.function is not None)

    def code(key: str) -> bool:
        """Whether it is a file of a model that the user's code opens."""
        return key.startswith(coded)

    return {key: digest for each in found for key, digest in each.items() if key.endswith(".safetensors") or code(key)}


def _curves(audit: Audit) -> list[dict[str, Any]]:
    """The loss curve of every trained network, the student's accuracy by timestep, and the clusters."""
    curves, artifacts = [], audit.artifacts
    surrogate = artifacts.surrogate
    trained = {"dpm": artifacts.dpm} | {name: surrogate.child(name) for name in NETWORKS}
    for stage, artifact in trained.items():
        try:
            curve = {"stage": stage, **artifact.read_json(CURVE)}
        except FileNotFoundError:
            continue
        except Damaged as damage:  # a figure is not worth a new training
            audit.reporter.warn(f"{damage}: the report lacks this loss curve, which only a new training would give")
            continue
        info = artifact.info()
        if "accuracy" in info:
            curve["t"] = [(row["first"] + row["last"]) / 2 for row in info["accuracy"]]
            curve["accuracy"] = [row["hits"] / row["count"] for row in info["accuracy"]]
            curve["chance"] = max(info["truth"]) / sum(info["truth"])
        curves.append(curve)
    if surrogate.child("student").done or surrogate.child("lora").done:
        curves.append({"stage": "clusters", **_found_labels(artifacts)})
    return curves
