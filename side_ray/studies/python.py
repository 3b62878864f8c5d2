"""Audits from Python: `side_ray.audit` and `side_ray.score_images`."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from side_ray.algorithm import run_until
from side_ray.config import Config
from side_ray.config.file import load_config, parse_config
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.execution.session import own_ray
from side_ray.images import IMAGE_TYPE, image_column
from side_ray.results.opened import AuditResult
from side_ray.storage import Store, open_store
from side_ray.studies.given import given_config

INPUTS = "inputs"
"""Directory of a run with the images that were given as arrays or data sets, as Parquet."""
TOGETHER = 1024
"""Images of one row group."""


def run_audit(config: str | PathLike[str] | Mapping[str, Any] | Config, overrides: Sequence[str]) -> AuditResult:
    """See `side_ray.audit`."""
    if isinstance(config, (str, PathLike)):
        return _finished(load_config(config, overrides))
    values = config.model_dump(mode="json") if isinstance(config, Config) else dict(config)
    return _finished(parse_config(values, "config", overrides))


def run_score(samples: Any, train: Any, unseen: Any, run: str, overrides: Sequence[str]) -> AuditResult:
    """See `side_ray.score_images`."""
    store = open_store(run)
    held = None if unseen is None else image_path(unseen, "unseen", store)
    paths = image_path(samples, "samples", store), image_path(train, "train", store), held
    return _finished(given_config(*paths, run, overrides))


def _finished(config: Config) -> AuditResult:
    with own_ray():
        return AuditResult(run_until("report", config, Reporter()).run.store)


def image_path(images: Any, name: str, store: Store) -> str:
    """The path of images: their own, or that of the Parquet file in the run to which they are written.

    Args:
        name: samples, train or unseen.
    """
    if isinstance(images, (str, PathLike)):
        return str(images)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as directory:
        local = Path(directory, "images.parquet")
        with pq.ParquetWriter(local, pa.schema([("image", IMAGE_TYPE)]), compression="zstd") as writer:
            block: list[np.ndarray] = []
            for pixels in _each(images, name):
                digest.update(repr(pixels.shape).encode() + pixels.tobytes())
                block.append(pixels)
                if len(block) == TOGETHER:
                    writer.write_table(pa.table({"image": image_column(block)}))
                    block = []
            if block:
                writer.write_table(pa.table({"image": image_column(block)}))
        key = f"{INPUTS}/{name}-{digest.hexdigest()[:12]}.parquet"
        if not store.exists(key):
            store.put_file(local, key)
    return f"{store.uri}/{key}"


def _each(images: Any, name: str) -> Iterator[np.ndarray]:
    """The images one after the other, uint8 [H, W, C]."""
    if hasattr(images, "__getitem__") and hasattr(images, "__len__") and not hasattr(images, "__iter__"):
        images = map(images.__getitem__, range(len(images)))  # a torch Dataset
    number = -1
    for number, each in enumerate(images):
        yield _pixels(each, f"{name}: image {number}")
    if number < 0:
        raise UserError(f"{name}: holds no images")


def _pixels(item: Any, where: str) -> np.ndarray:
    """One image as uint8 [H, W, C], C of 1 or 3."""
    if isinstance(item, Mapping) and "image" in item:
        item = item["image"]
    elif isinstance(item, (tuple, list)) and item and not np.isscalar(item[0]):
        item = item[0]
    if isinstance(item, Mapping) and item.get("bytes"):
        item = Image.open(io.BytesIO(item["bytes"]))
    if isinstance(item, Image.Image):
        array = np.asarray(item if item.mode == "L" else item.convert("RGB"))
    elif hasattr(item, "detach"):  # a tensor [C, H, W]
        array = item.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    else:
        array = np.asarray(item)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8:
        raise UserError(
            f"{where} has values of type {array.dtype}; give uint8 in 0 … 255, for values in [0, 1] as "
            "(x * 255).round().astype('uint8')"
        )
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise UserError(f"{where} has shape {array.shape}; give [H, W] or [H, W, C] with 1 or 3 channels")
    return np.ascontiguousarray(array)
