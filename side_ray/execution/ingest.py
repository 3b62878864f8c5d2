"""Reads a data source in tasks: each takes one piece of it by path and writes what it found, or its images, to the run.

Three passes over the pieces, which only the source's content determines, so that the result does not depend on how many
processes share them: `Scan` reads every image for its hash and label, `Near` compares all with all where asked to, `Write`
reads the chosen ones again and writes the canonical parts.
"""

import hashlib
import io
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from side_ray.config import ClusterSection
from side_ray.errors import RunError, UserError
from side_ray.execution.progress import Bar
from side_ray.execution.shard_pool import MOST_BLOCKS, one_line
from side_ray.images import IMAGE_TYPE, encode_png
from side_ray.runs.dataset import SCHEMA, to_parquet
from side_ray.runs.run import Artifact
from side_ray.search import Index, Neighbors, merge
from side_ray.similarity.nl2 import Nl2
from side_ray.sources.base import Record, Source
from side_ray.sources.reading.pixels import Transform, Unusable
from side_ray.sources.select import DIGEST_BYTES, SPLITS

PART_IMAGES = 1024
"""Most images of one part: bounds the memory of the task that writes it."""

UNITS, DISTINCT, PLAN = "scan/units.parquet", "scan/distinct.parquet", "scan/plan.parquet"
SCAN_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.string()),
        ("digest", pa.binary(DIGEST_BYTES)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("error", pa.string()),
    ]
)
PLAN_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("position", pa.int32()),
        ("part", pa.int32()),
        ("split", pa.string()),
        ("id", pa.int64()),
        ("label", pa.int64()),
        ("digest", pa.binary(DIGEST_BYTES)),
    ]
)


def scan_key(unit: int) -> str:
    return f"scan/scan-{unit:06d}.parquet"


def pixels_key(unit: int) -> str:
    return f"scan/pixels-{unit:06d}.npy"


def near_key(unit: int) -> str:
    return f"scan/near-{unit:06d}.parquet"


def part_key(part: int) -> str:
    return f"part-{part:06d}.parquet"


@dataclass(frozen=True)
class IngestSpec:
    """Everything that a task needs, by path.

    Attributes:
        artifact: the `prepare` artifact, whose `scan/` holds the units and what is found of them.
        pools: the sources.
        near: bound of near duplicates; None = they are not looked for, and no pixels are kept for it.
        units: how many units there are.
    """

    artifact: Artifact
    pools: tuple[Source, ...]
    transform: Transform
    near: float | None
    units: int

    def write(self, key: str, data: bytes) -> None:
        self.artifact.store.write(f"{self.artifact.key}/{key}", data)

    def rows(self, key: str, unit: int) -> pa.Table:
        """The rows of one unit in a table of all units."""
        with self.artifact.store.open_input(f"{self.artifact.key}/{key}") as source:
            return pq.read_table(source, filters=[("unit", "==", unit)])

    def records(self, unit: int, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one unit, in order; see `Source.read`."""
        row = self.rows(UNITS, unit)
        return self.pools[row.column("pool")[0].as_py()].read(json.loads(row.column("content")[0].as_py()), only)


class Pass:
    """One pass; a subclass says what is done with one unit. Picklable."""

    def __init__(self, spec: IngestSpec) -> None:
        self.spec = spec

    def make(self, unit: int) -> None:
        """Read one unit and write what comes of it."""
        raise NotImplementedError


def _make(batch: dict[str, np.ndarray], work: Pass) -> dict[str, np.ndarray]:
    unit = int(batch["unit"][0])
    try:
        work.make(unit)
        error = ""
    except UserError as wrong:
        error = str(wrong)
    except Exception as failure:  # a failure stays with its unit; the driver names it when the others are done
        error = one_line(failure)
    return {"unit": np.array([unit]), "error": np.array([error])}


def run_pass(work: Pass, units: Sequence[int], cluster: ClusterSection, bar: Bar) -> dict[int, str]:
    """Have units done in Ray's tasks, at most `cluster.actors[1]` at a time; the errors of those that failed.

    Tasks, not actors: the passes are short and there are several, and the processes of the first serve them all.

    Raises:
        RunError: Ray cannot go on at all.
    """
    import ray.data
    from ray.exceptions import RayError

    size = -(-len(units) // MOST_BLOCKS)
    blocks = [pa.table({"unit": list(units[start : start + size])}) for start in range(0, len(units), size)]
    dataset = ray.data.from_arrow(blocks).map_batches(
        _make,
        fn_args=(work,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.TaskPoolStrategy(size=cluster.actors[1]),
        num_cpus=cluster.actor_cpus,
    )
    failures: dict[int, str] = {}
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                failures[row["unit"]] = row["error"]
            else:
                bar.advance(1)
    except RayError as error:
        raise RunError(
            f"Ray gave up ({one_line(error)}); finished parts are kept, so run the same command again to go on"
        ) from error
    return failures


class Scan(Pass):
    """Decodes every image of a unit; writes its name, label, the hash and size of its pixels, or what is wrong with it."""

    def make(self, unit: int) -> None:
        spec, columns = self.spec, {name: list[Any]() for name in SCAN_SCHEMA.names}
        kept: list[np.ndarray] = []
        labelled = spec.pools[0].labelled
        pool = spec.rows(UNITS, unit).column("pool")[0].as_py()
        for record in spec.records(unit):
            found: dict[str, Any] = {"name": record.name, "label": record.label}
            try:
                if record.error:
                    raise Unusable(record.error)
                if labelled and pool == 0 and record.label is None:
                    raise Unusable("has no label")
                pixels = spec.transform(record.content)
                found |= {"digest": digest(pixels), "height": pixels.shape[0], "width": pixels.shape[1]}
                if spec.near is not None:
                    kept.append(pixels)
            except Unusable as error:
                found["error"] = str(error)
            for name, values in columns.items():
                values.append(found.get(name))
        if kept:
            buffer = io.BytesIO()
            # Images of several sizes are refused before anyone compares them.
            np.save(
                buffer, np.stack([image.ravel() for image in kept if image.size == kept[0].size]), allow_pickle=False
            )
            spec.write(pixels_key(unit), buffer.getvalue())
        spec.write(scan_key(unit), to_parquet(pa.table(columns, SCAN_SCHEMA)))


def digest(pixels: np.ndarray) -> bytes:
    """Hash of pixels uint8 [H, W, C] and their shape: 128 bits of BLAKE2b."""
    hashed = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
    hashed.update(pixels.tobytes())
    return hashed.digest()


class Near(Pass):
    """Finds for every distinct image of a unit the others of the whole set at a normalized L2 below the bound.

    As in the scores, the unit of distance is half the mean distance to the 50 nearest *other* images, so an image at less
    than 2 is among these 50 and none is missed.
    """

    def make(self, unit: int) -> None:
        queries, indices = self._features(unit)
        pairs = self._pairs(queries, indices) if len(indices) else np.empty((0, 2), np.int64)
        self.spec.write(near_key(unit), to_parquet(pa.table({"first": pairs[:, 0], "second": pairs[:, 1]})))

    def _pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """int64 [P, 2]: index of a query and of an image that is near to it."""
        similarity = Nl2()
        k = similarity.neighbors + 1
        parts = []
        for unit in range(self.spec.units):
            features, ids = self._features(unit)
            if len(ids):
                parts.append(Index(features, ids, "l2", engine="torch").search(queries, k)[0])
        found = merge(parts, k, "l2")
        # Distinct images are at a distance above 0, so each is its own nearest.
        others = Neighbors(found.ids[:, 1:], found.values[:, 1:])
        if not others.ids.shape[1]:
            return np.empty((0, 2), np.int64)
        rows, columns = np.nonzero(similarity.values(others) < self.spec.near)
        return np.stack([indices[rows], others.ids[rows, columns]], axis=1)

    def _features(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels float32 [n, d] and census indices int64 [n] of the distinct images of a unit."""
        rows = self.spec.rows(DISTINCT, unit)
        if not rows.num_rows:
            return np.empty((0, 1), np.float32), np.empty(0, np.int64)
        store, key = self.spec.artifact.store, self.spec.artifact.key
        pixels = np.load(io.BytesIO(store.read(f"{key}/{pixels_key(unit)}")), allow_pickle=False)
        return pixels[rows.column("row").to_numpy()].astype(np.float32), rows.column("index").to_numpy()


class Write(Pass):
    """Writes the chosen images of a unit as canonical parts, in each part split by split in the order of the ids."""

    def make(self, unit: int) -> None:
        plan = self.spec.rows(PLAN, unit).sort_by("position")
        waiting = {each["position"]: each for each in plan.to_pylist()}
        last, part, images = max(waiting), plan.column("part")[0].as_py(), list[dict[str, Any]]()
        for position, record in enumerate(self.spec.records(unit, waiting)):
            wanted = waiting.get(position)
            if wanted is not None:
                if wanted["part"] != part:
                    self._write_part(part, images)
                    part, images = wanted["part"], []
                images.append({**wanted, "image": {"bytes": self._png(record, wanted["digest"]), "path": record.name}})
            if position == last:
                break
        else:
            raise self._changed()
        self._write_part(part, images)

    def _png(self, record: Record, wanted: bytes) -> bytes:
        try:
            pixels = self.spec.transform(record.content)
        except Unusable:
            raise self._changed() from None
        if digest(pixels) != wanted:
            raise self._changed()
        return encode_png(pixels)

    def _changed(self) -> UserError:
        return UserError(
            "data.path: its images changed while they were read; let them be and run the same command again"
        )

    def _write_part(self, part: int, images: list[dict[str, Any]]) -> None:
        tables = []
        for split in SPLITS:
            rows = [each for each in images if each["split"] == split]
            if rows:
                columns = {name: [each[name] for each in rows] for name in ("id", "split", "label")}
                image = pa.array([each["image"] for each in rows], IMAGE_TYPE)
                tables.append(pa.table({**columns, "image": image}, schema=SCHEMA))
        self.spec.write(part_key(part), to_parquet(*tables))
