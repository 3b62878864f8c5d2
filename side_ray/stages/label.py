"""Labels the synthetic set: what the student is taught to tell apart."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from side_ray.config import Config
from side_ray.errors import RunError, UserError
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import one_line
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import to_parquet
from side_ray.surrogate import labels as implicit
from side_ray.surrogate.encoders import Encoder, Teacher, open_encoder, open_teacher
from side_ray.surrogate.resnet import ResNet

LABELS = "labels.parquet"
FOUND = "labels.json"


def labels_there(artifacts: Artifacts) -> bool:
    """Whether the synthetic set is labelled."""
    return artifacts.surrogate.store.exists(f"{artifacts.surrogate.key}/{LABELS}")


def make_labels(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Have a worker write `labels.parquet`: sample_id · label (−1 = its cluster was dropped) · teacher (probabilities), and
    `labels.json`, what is worth knowing of them.

    Raises:
        UserError: the weights that the config names do not fit, or no clusters are left.
        RunError: the worker died too often, or failed otherwise.
    """
    ensure_ray(config.cluster)
    import ray
    from ray.exceptions import RayError

    cluster = config.cluster
    options = {"num_cpus": cluster.train_cpus, "num_gpus": cluster.gpus, "max_retries": cluster.train_failures}
    try:
        found = ray.get(ray.remote(_write_labels).options(**options).remote(config, artifacts))
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):
            raise cause from None
        raise RunError(
            f"train_surrogate: labelling failed ({one_line(error)}); run the same command again to retry"
        ) from error
    reporter.say(f"train_surrogate: {described(config, found)} for {found['labelled']:,} synthetic images")


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


def _write_labels(config: Config, artifacts: Artifacts) -> dict[str, Any]:
    torch.set_num_threads(config.cluster.train_cpus)
    label, teacher, found = _label(config, artifacts)
    found["labelled"] = int((label >= 0).sum())
    columns = {
        "sample_id": pa.array(range(len(label)), pa.int64()),
        "label": pa.array(label, pa.int64()),
        "teacher": pa.FixedSizeListArray.from_arrays(pa.array(teacher.ravel(), pa.float32()), teacher.shape[1]),
    }
    target = artifacts.surrogate
    target.write_json(FOUND, found)
    target.store.write(f"{target.key}/{LABELS}", to_parquet(pa.table(columns)))
    return found


def _label(config: Config, artifacts: Artifacts) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels int64 [N], teacher probabilities float32 [N, K], and what is worth knowing of them."""
    section = config.surrogate
    if section.labels == "random":
        label = implicit.random_labels(section.synthetic, section.classes, config.run.seed)
        return label, implicit.hard_targets(label, section.classes), {"classes": section.classes}
    if section.labels == "cluster":
        features = _over_shards(config, artifacts, _encoder(config, artifacts))
        clusters = implicit.cluster_labels(features, section.classes, section.cohesion, config.run.seed)
        found = {
            "classes": len(clusters.kept),
            "asked": section.classes,
            "sizes": clusters.sizes.tolist(),
            "cohesion": [round(float(value), 4) for value in clusters.cohesion],
            "kept": clusters.kept.tolist(),
        }
        return clusters.assignment, clusters.targets, found
    probabilities = _over_shards(config, artifacts, _teacher(config, artifacts).probabilities)
    return probabilities.argmax(1), probabilities, {"classes": probabilities.shape[1]}


def _over_shards(config: Config, artifacts: Artifacts, function: Encoder) -> np.ndarray:
    """float32 [N, d] of the whole synthetic set, of which one shard of images is in memory at a time."""
    shards = artifacts.synthetic
    count = config.surrogate.synthetic // config.extract.shard_size
    return np.concatenate([function(decode_column(shards.read(i, ["image"]).column("image"))) for i in range(count)])


def _encoder(config: Config, artifacts: Artifacts) -> Encoder:
    """What gives the features to cluster."""
    kind = config.surrogate.features
    if kind == "pixels":
        return implicit.pixel_features
    if kind == "teacher":
        return _teacher(config, artifacts).features
    ((key, path),) = config.label_weights.items()
    return open_encoder(kind, key, path, config.score.option("preprocessing"), _device())


def _teacher(config: Config, artifacts: Artifacts) -> Teacher:
    """The classifier that the config gives, or the one that was trained on the members' labels."""
    section = config.surrogate
    if section.teacher is not None:
        return open_teacher(section.teacher, section.teacher_size, section.teacher_input, _device())
    own = artifacts.surrogate.child("teacher")
    return Teacher(ResNet.load(own.store.fetch_dir(own.key)), device=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
