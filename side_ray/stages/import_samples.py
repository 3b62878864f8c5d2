"""Samples that are there already: an auditor who has only a folder of generated images scores these, without a DPM.

Every sample is scored; every second one also sets the calibrated cut, where images are given that the model never saw.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray
from side_ray.execution.shard_pool import ShardActor, Task, report_failures, run_tasks
from side_ray.images import IMAGE_TYPE, encode_png
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.given import CUT_EVERY
from side_ray.runs.plan import conditions
from side_ray.runs.shards import ShardSet
from side_ray.sources.base import Source
from side_ray.sources.pools import transform_of
from side_ray.sources.reading.pixels import Transform, Unusable


@dataclass(frozen=True)
class TakerSpec:
    """Everything that a taker needs, by path. `strides`: of every set, how many samples apart its rows are."""

    source: Source
    transform: Transform
    shape: tuple[int, int, int]
    sets: list[ShardSet]
    strides: list[int]


class Taker(ShardActor):
    """Brings given samples into the run, shard by shard."""

    stage = "samples"
    phases = ("read", "write")

    def __init__(self, spec: TakerSpec) -> None:
        self.spec = spec

    def make(self, task: Task, row: dict[str, Any]) -> None:
        shards, stride = self.spec.sets[task.group], self.spec.strides[task.group]
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
        """The samples of the given numbers, counted through the whole source."""
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
            raise UserError(f"given.samples: {name} cannot be used ({reason}); mend or remove it") from None
        if pixels.shape != self.spec.shape:
            (height, width, _), (wanted_height, wanted_width, _) = pixels.shape, self.spec.shape
            raise UserError(
                f"given.samples: {name} has {width}×{height} pixels, the training images have {wanted_width}×{wanted_height}; "
                "give data.image_size, to which all are cropped and resized"
            )
        return encode_png(pixels)


def take_given(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Bring the given samples into the run: all of them, and every second one as the set that sets the cut.

    Raises:
        UserError: an image cannot be used, or has another size than the training images.
        RunError: some shards could not be written; the others are, and the message names those.
    """
    (condition,) = conditions(config)
    sets, strides = [artifacts.samples(condition)], [1]
    counts = [artifacts.sample_shards]
    if artifacts.cut_shards:
        sets, strides, counts = [*sets, artifacts.synthetic], [1, CUT_EVERY], [*counts, artifacts.cut_shards]
    tasks = [Task(g, i) for g, shards in enumerate(sets) for i in shards.missing(counts[g])]
    total = sum(shards.total or 0 for shards in sets)
    if not tasks:
        reporter.say(f"samples: {config.extract.samples:,} samples are there")
    else:
        left = sum(sets[task.group].size(task.shard) for task in tasks)
        height, width, channels = artifacts.prepare.info()["shape"]
        spec = TakerSpec(artifacts.given, transform_of(config.data), (height, width, channels), sets, strides)
        ensure_ray(config.cluster)
        with reporter.bar("samples", total, "samples", done=total - left) as bar:
            outcome = run_tasks(Taker, spec, tasks, config.cluster, bar)
        report_failures("samples", sets, outcome)
    artifacts.run.point_latest(samples={condition.name: sets[0].directory})
    if artifacts.cut_shards:
        artifacts.run.point_latest(synthetic=artifacts.synthetic.directory)
