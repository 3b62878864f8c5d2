"""Labels the synthetic set: what the student is taught to tell apart."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from side_ray.config import Config
from side_ray.datasets import to_parquet
from side_ray.images import decode_column
from side_ray.stages.plan import Artifacts
from side_ray.stages.progress import Reporter
from side_ray.surrogate import labels as implicit
from side_ray.surrogate.encoders import Teacher, encoder_features, open_teacher
from side_ray.surrogate.resnet import ResNet

LABELS = "labels.parquet"
FOUND = "labels.json"


def labels_there(artifacts: Artifacts) -> bool:
    """Whether the synthetic set is labelled."""
    return artifacts.surrogate.store.exists(f"{artifacts.surrogate.key}/{LABELS}")


def make_labels(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Write `labels.parquet`: sample_id · label (−1 = its cluster was dropped) · teacher (probabilities), and `labels.json`,
    what is worth knowing of them.

    Raises:
        UserError: the weights that the config names do not fit, or no clusters are left.
    """
    target = artifacts.surrogate
    count = config.surrogate.synthetic // config.extract.shard_size
    table = artifacts.synthetic.read_first(count, ["sample_id", "image"])
    label, teacher, found = _label(config, artifacts, decode_column(table.column("image")))
    columns = {
        "sample_id": table.column("sample_id"),
        "label": pa.array(label, pa.int64()),
        "teacher": pa.FixedSizeListArray.from_arrays(pa.array(teacher.ravel(), pa.float32()), teacher.shape[1]),
    }
    target.write_json(FOUND, found)
    target.store.write(f"{target.key}/{LABELS}", to_parquet(pa.table(columns)))
    reporter.say(f"train_surrogate: {described(config, found)} for {int((label >= 0).sum()):,} synthetic images")


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


def _label(config: Config, artifacts: Artifacts, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels int64 [N], teacher probabilities float32 [N, K], and what is worth knowing of them."""
    section = config.surrogate
    if section.labels == "random":
        label = implicit.random_labels(len(images), section.classes, config.run.seed)
        return label, implicit.hard_targets(label, section.classes), {"classes": section.classes}
    if section.labels == "cluster":
        features = _features(config, artifacts, images)
        clusters = implicit.cluster_labels(features, section.classes, section.cohesion, config.run.seed)
        found = {
            "classes": len(clusters.kept),
            "asked": section.classes,
            "sizes": clusters.sizes.tolist(),
            "cohesion": [round(float(value), 4) for value in clusters.cohesion],
            "kept": clusters.kept.tolist(),
        }
        return clusters.assignment, clusters.targets, found
    probabilities = _teacher(config, artifacts).probabilities(images)
    return probabilities.argmax(1), probabilities, {"classes": probabilities.shape[1]}


def _features(config: Config, artifacts: Artifacts, images: np.ndarray) -> np.ndarray:
    """float32 [N, d] of images uint8 [N, H, W, C]."""
    kind = config.surrogate.features
    if kind == "pixels":
        return implicit.pixel_features(images)
    if kind == "teacher":
        return _teacher(config, artifacts).features(images)
    ((key, path),) = config.label_weights.items()
    return encoder_features(kind, images, key, path, config.score.preprocessing, _device())


def _teacher(config: Config, artifacts: Artifacts) -> Teacher:
    """The classifier that the config gives, or the one that was trained on the members' labels."""
    section = config.surrogate
    if section.teacher is not None:
        return open_teacher(section.teacher, section.teacher_size, section.teacher_input, _device())
    own = artifacts.surrogate.child("teacher")
    return Teacher(ResNet.load(own.store.fetch_dir(own.key)), device=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
