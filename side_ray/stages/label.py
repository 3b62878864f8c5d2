"""Step: label the synthetic set with implicit labels (Eq. 154), on which the student is trained."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.storage.sealed import read_table, write_table
from side_ray.surrogate import labels as implicit
from side_ray.surrogate.encoders import Encoder, Teacher, open_encoder, open_teacher
from side_ray.surrogate.resnet import ResNet
from side_ray.training.classifier import clean_part, train_parts

LABELS = "labels.parquet"
FOUND = "labels.json"


def label(audit: Audit) -> None:
    """Label the synthetic set for method `td`. Does nothing if it is labelled already or `td` is not used.

    A worker writes `labels.parquet` (sample_id · label, −1 = its cluster was dropped · teacher, the probabilities) and
    `labels.json` (number of classes, cluster sizes). If the labels need a teacher, it is trained first.

    Raises:
        UserError: the members have no labels to train a teacher on, the weights in the config do not fit, or no cluster
            is cohesive enough to be kept.
        RunError: the worker died more often than `cluster.train_failures`, or raised another exception.
    """
    config, artifacts = audit.config, audit.artifacts
    surrogate = artifacts.surrogate
    missing = [name for name in (LABELS, FOUND) if not surrogate.store.exists(f"{surrogate.key}/{name}")]
    if "td" not in config.extract.methods or not missing:
        return
    if len(missing) == 1:
        audit.reporter.warn(f"{surrogate.key}/{missing[0]} is missing: making it again")
    if config.surrogate.wants_labels:
        require_labels(audit, "surrogate.teacher")
        train_parts(audit, clean_part(audit, "teacher"))
    ensure_ray(config.cluster)
    cluster = config.cluster
    # Random labels and clusters of pixels need no network.
    uses_gpu = config.surrogate.labels == "classifier" or config.surrogate.features != "pixels"
    found = run_remotely(
        _write_labels,
        artifacts,
        title="label",
        cpus=cluster.train_cpus,
        gpus=cluster.gpus if uses_gpu else 0,
        retries=cluster.train_failures,
    )
    audit.reporter.say(f"label: {described(config, found)} for {found['labelled']:,} synthetic images")


def require_labels(audit: Audit, what: str) -> None:
    """Raise UserError if the members have no labels, which `what` is trained on."""
    if not audit.artifacts.prepare.info()["classes"]:
        raise UserError(
            f"{what} needs labels, and {audit.config.data.source} has none; remove it or use surrogate.labels: cluster"
        )


def described(config: Config, found: dict[str, Any]) -> str:
    """The number of labels, or of kept clusters with their sizes, for a message."""
    if "kept" not in found:
        return f"{found['classes']} {config.surrogate.labels} labels"
    sizes = [found["sizes"][cluster] for cluster in found["kept"]]
    return (
        f"{found['classes']} of {found['asked']} clusters of {config.surrogate.features} features kept ({min(sizes):,} to "
        f"{max(sizes):,} images each)"
    )


def read_labels(artifacts: Artifacts) -> pa.Table:
    """`labels.parquet`: sample_id, label and teacher probabilities of the synthetic set. Raises Damaged."""
    return read_table(artifacts.run.store, f"{artifacts.surrogate.key}/{LABELS}")


def _write_labels(artifacts: Artifacts) -> dict[str, Any]:
    torch.set_num_threads(artifacts.config.cluster.train_cpus)
    assigned, teacher, found = _label(artifacts)
    found["labelled"] = int((assigned >= 0).sum())
    columns = {
        "sample_id": pa.array(range(len(assigned)), pa.int64()),
        "label": pa.array(assigned, pa.int64()),
        "teacher": pa.FixedSizeListArray.from_arrays(pa.array(teacher.ravel(), pa.float32()), teacher.shape[1]),
    }
    target = artifacts.surrogate
    target.write_json(FOUND, found)
    write_table(target.store, f"{target.key}/{LABELS}", pa.table(columns))
    return found


def _label(artifacts: Artifacts) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels int64 [N], teacher probabilities float32 [N, K], and the content of `labels.json`."""
    config, section = artifacts.config, artifacts.config.surrogate
    if section.labels == "random":
        drawn = implicit.random_labels(section.synthetic, section.classes, config.run.seed)
        return drawn, implicit.hard_targets(drawn, section.classes), {"classes": section.classes}
    if section.labels == "cluster":
        features = _over_shards(artifacts, _encoder(artifacts))
        clusters = implicit.cluster_labels(features, section.classes, section.cohesion, config.run.seed)
        found = {
            "classes": len(clusters.kept),
            "asked": section.classes,
            "sizes": clusters.sizes.tolist(),
            "cohesion": [round(float(value), 4) for value in clusters.cohesion],
            "kept": clusters.kept.tolist(),
        }
        return clusters.assignment, clusters.targets, found
    probabilities = _over_shards(artifacts, _teacher(artifacts).probabilities)
    return probabilities.argmax(1), probabilities, {"classes": probabilities.shape[1]}


def _over_shards(artifacts: Artifacts, function: Encoder) -> np.ndarray:
    """`function` of the whole synthetic set, float32 [N, d], with one shard of images in memory at a time."""
    shards, count = artifacts.synthetic, artifacts.synthetic_shards
    return np.concatenate([function(decode_column(shards.read(i, ["image"]).column("image"))) for i in range(count)])


def _encoder(artifacts: Artifacts) -> Encoder:
    """The function that computes the features to cluster."""
    config = artifacts.config
    kind = config.surrogate.features
    if kind == "pixels":
        return implicit.pixel_features
    if kind == "teacher":
        return _teacher(artifacts).features
    ((key, path),) = config.label_weights.items()
    return open_encoder(kind, key, path, config.score.option("preprocessing"), _device(), config.trusts(key))


def _teacher(artifacts: Artifacts) -> Teacher:
    """The classifier of the config, or else the one that was trained on the members' labels."""
    section = artifacts.config.surrogate
    if section.teacher is not None:
        return open_teacher(section.teacher, section.teacher_size, section.teacher_input, _device())
    own = artifacts.surrogate.child("teacher")
    return Teacher(ResNet.load(own.fetch()), device=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
