"""Step: import given samples, which are scored without a DPM. It takes the place of training and sampling.

All samples are scored. If there are unseen images, every second sample also sets the calibrated cut.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.shard_pool import ShardActor, ShardJob, Task, run_shards
from side_ray.images import IMAGE_TYPE, encode_png
from side_ray.registry import Carrier
from side_ray.runs.artifacts import CUT_EVERY
from side_ray.runs.plan import conditions
from side_ray.sources.base import Source
from side_ray.sources.inventory import samples_inventory, told
from side_ray.sources.pools import transform_of
from side_ray.sources.reading.pixels import Transform, Unusable


@dataclass(frozen=True)
class ImportJob(ShardJob):
    """Given samples to import: every `stride`-th one of the source."""

    stride: int


@dataclass(frozen=True)
class ImporterSpec(Carrier):
    """Everything that an importer needs, by path. `shape` is (H, W, C) of the training images."""

    source: Source
    transform: Transform
    shape: tuple[int, int, int]
    jobs: list[ImportJob]


class SampleImporter(ShardActor):
    """Writes given samples into the run directory, in shards."""

    stage = "samples"
    phases = ("read", "write")

    @classmethod
    def uses_gpu(cls, config: Config) -> bool:
        return False

    def __init__(self, spec: ImporterSpec) -> None:
        self.spec = spec

    def make(self, task: Task, row: dict[str, Any]) -> None:
        job = self.spec.jobs[task.job]
        shards, stride = job.output, job.stride
        first, size = task.shard * shards.rows, shards.size(task.shard)
        began = time.perf_counter()
        images = list(self._images(range(first * stride, (first + size) * stride, stride)))
        row["seconds_read"] = time.perf_counter() - began
        began, retries = time.perf_counter(), shards.store.retries
        columns = {
            "sample_id": pa.array(range(first, first + size), pa.int64()),
            "seed": pa.nulls(size, pa.int64()),
            "target": pa.nulls(size, pa.int64()),
            "image": pa.array(images, IMAGE_TYPE),
        }
        shards.write(task.shard, pa.table(columns))
        row["seconds_write"] = time.perf_counter() - began
        row |= {"retries": shards.store.retries - retries, "rows": size}

    def _images(self, wanted: range) -> Iterator[dict[str, Any]]:
        """The samples with the numbers `wanted`, counted over all units of the source, as rows of `IMAGE_TYPE`."""
        source, before = self.spec.source, 0
        for unit in source.units():
            after = before + source.size(unit)
            here = range(before, after)
            positions = {number - before for number in wanted if number in here}
            if positions:
                for position, record in enumerate(source.read(unit, positions)):
                    if position in positions:
                        yield {"bytes": self._png(record.name, record.content, record.error), "path": record.name}
            before = after

    def _png(self, name: str, content: bytes | np.ndarray, error: str) -> bytes:
        try:
            if error:
                raise Unusable(error)
            pixels = self.spec.transform(content)
        except Unusable as reason:
            raise UserError(f"given.samples: {name} cannot be used ({reason}); repair or remove it") from None
        if pixels.shape != self.spec.shape:
            (height, width, _), (wanted_height, wanted_width, _) = pixels.shape, self.spec.shape
            raise UserError(
                f"given.samples: {name} has {width}×{height} pixels, the training images have {wanted_width}×{wanted_height}; "
                "give data.image_size, to which all are cropped and resized"
            )
        return encode_png(pixels)


def import_samples(audit: Audit) -> None:
    """Import all given samples, and every second one again as the set for the cut.

    Raises:
        RunError: an image cannot be used, has another size than the training images, or cannot be written. Finished shards
            are kept.
    """
    artifacts = audit.artifacts
    (condition,) = conditions(audit.config)
    jobs = [ImportJob(artifacts.samples(condition), artifacts.sample_shards, 1)]
    if artifacts.cut_shards:
        jobs.append(ImportJob(artifacts.synthetic, artifacts.cut_shards, CUT_EVERY))

    def spec() -> ImporterSpec:
        height, width, channels = artifacts.prepare.info()["shape"]
        return ImporterSpec(artifacts.given, transform_of(audit.config.data), (height, width, channels), jobs)

    audit.reporter.say(f"samples: {told(samples_inventory(artifacts.given))}")
    run_shards(audit, SampleImporter, jobs, spec, "samples")
    audit.run.point_latest(samples={condition.name: jobs[0].output.directory})
    if artifacts.cut_shards:
        audit.run.point_latest(synthetic=artifacts.synthetic.directory)
