"""Step: label the synthetic set (Eq. 154): what the student learns to tell apart."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.session import ensure_ray, run_remotely
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import to_parquet
from side_ray.surrogate import labels as implicit
from side_ray.surrogate.encoders import Encoder, Teacher, open_encoder, open_teacher
from side_ray.surrogate.resnet import ResNet
from side_ray.training.classifier import train_classifier

LABELS = "labels.parquet"
FOUND = "labels.json"


def label(audit: Audit) -> None:
    """Label the synthetic set for method `td`; does nothing where it is labelled, or where `td` is not asked for.

    A worker writes `labels.parquet`: sample_id · label (−1 = its cluster was dropped) · teacher (probabilities), and
    `labels.json`, what is worth knowing of them. A teacher is trained first where the labels need one.

    Raises:
        UserError: the members have no labels to train a teacher on, the weights that the config names do not fit, or no
            clusters are left.
        RunError: the worker died too often, or failed otherwise.
    """
    config, artifacts = audit.config, audit.artifacts
    surrogate = artifacts.surrogate
    if "td" not in config.extract.methods or surrogate.store.exists(f"{surrogate.key}/{LABELS}"):
        return
    if config.surrogate.wants_labels:
        require_labels(audit, "surrogate.teacher")
        train_classifier(audit, "teacher")
    ensure_ray(config.cluster)
    cluster = config.cluster
    # Random labels and clusters of pixels use no network.
    uses_gpu = config.surrogate.labels == "classifier" or config.surrogate.features != "pixels"
    found = run_remotely(
        _write_labels,
        artifacts,
        title="label: labelling",
        cpus=cluster.train_cpus,
        gpus=cluster.gpus if uses_gpu else 0,
        retries=cluster.train_failures,
    )
    audit.reporter.say(f"label: {described(config, found)} for {found['labelled']:,} synthetic images")


def require_labels(audit: Audit, what: str) -> None:
    """Refuse `what`, which is trained on the members' labels, where these have none. Raises UserError."""
    if not audit.artifacts.prepare.info()["classes"]:
        raise UserError(
            f"{what} needs labels, and {audit.config.data.source} has none; drop it or use surrogate.labels: cluster"
        )


def described(config: Config, found: dict[str, Any]) -> str:
    """One clause about the labels, with the kept clusters and their sizes."""
    if "kept" not in found:
        return f"{found['classes']} {config.surrogate.labels} labels"
    sizes = [found["sizes"][cluster] for cluster in found["kept"]]
    return (
        f"{found['classes']} of {found['asked']} clusters of {config.surrogate.features} are kept, of {min(sizes):,} to "
        f"{max(sizes):,} images,"
    )


def read_labels(artifacts: Artifacts) -> pa.Table:
    """The labelled synthetic set, without its images."""
    data = artifacts.run.store.read(f"{artifacts.surrogate.key}/{LABELS}")
    return pq.read_table(io.BytesIO(data))


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
    target.store.write(f"{target.key}/{LABELS}", to_parquet(pa.table(columns)))
    return found


def _label(artifacts: Artifacts) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels int64 [N], teacher probabilities float32 [N, K], and what is worth knowing of them."""
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
    """float32 [N, d] of the whole synthetic set, of which one shard of images is in memory at a time."""
    config, shards = artifacts.config, artifacts.synthetic
    count = config.surrogate.synthetic // config.extract.shard_size
    return np.concatenate([function(decode_column(shards.read(i, ["image"]).column("image"))) for i in range(count)])


def _encoder(artifacts: Artifacts) -> Encoder:
    """What gives the features to cluster."""
    config = artifacts.config
    kind = config.surrogate.features
    if kind == "pixels":
        return implicit.pixel_features
    if kind == "teacher":
        return _teacher(artifacts).features
    ((key, path),) = config.label_weights.items()
    return open_encoder(kind, key, path, config.score.option("preprocessing"), _device())


def _teacher(artifacts: Artifacts) -> Teacher:
    """The classifier that the config gives, or the one that was trained on the members' labels."""
    section = artifacts.config.surrogate
    if section.teacher is not None:
        return open_teacher(section.teacher, section.teacher_size, section.teacher_input, _device())
    own = artifacts.surrogate.child("teacher")
    return Teacher(ResNet.load(own.store.fetch_dir(own.key)), device=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
