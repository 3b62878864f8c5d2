"""Reads a data source in Ray tasks: each reads one unit of it by path and writes its results to the run directory.

`Scan` hashes every image, reads its label and keeps a thumbnail. The passes of `near` compare images with each other. `Write`
reads the chosen images again and writes the canonical parts. The source's content alone determines the units, so the result
does not depend on the number of processes.
"""

import hashlib
import io
import json
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.config import ClusterSection
from side_ray.errors import Damaged, RunError, UserError, joined, one_line
from side_ray.execution.progress import Bar
from side_ray.execution.shard_pool import MOST_BLOCKS
from side_ray.images import DEEP, IMAGE_TYPE, encode_png
from side_ray.registry import Carrier
from side_ray.runs.dataset import PLAN, SCHEMA
from side_ray.runs.run import Artifact, part_name
from side_ray.similarity.duplicates import thumbnails
from side_ray.sources.base import Record, Source
from side_ray.sources.inventory import LEFT_OUT
from side_ray.sources.reading.pixels import Transform, Unusable, is_turned
from side_ray.sources.select import DIGEST_BYTES, SPLITS
from side_ray.storage.sealed import read_columns, write_table

PART_IMAGES = 1024
"""Maximum number of images in one part. It bounds the memory of the task that writes the part."""

UNITS = "scan/units.parquet"
SCAN_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.string()),
        ("digest", pa.binary(DIGEST_BYTES)),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("error", pa.string()),
        ("turned", pa.bool_()),
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
        ("group", pa.int64()),
        ("digest", pa.binary(DIGEST_BYTES)),
    ]
)


def scan_key(unit: int) -> str:
    return f"scan/images-{unit:06d}.parquet"


def pixels_key(unit: int) -> str:
    return f"scan/pixels-{unit:06d}.npy"


def thumbnails_key(unit: int) -> str:
    return f"scan/thumbnails-{unit:06d}.npy"


@dataclass(frozen=True)
class IngestSpec(Carrier):
    """Everything that a task needs, by path.

    Attributes:
        artifact: the `prepare` artifact; its `scan/` holds the list of units and the results of the scan.
        pools: the sources.
        transform: decodes, crops and resizes an image.
        near: images at a normalized L2 distance below this are to be left out; None = none are.
        units: number of units.
    """

    artifact: Artifact
    pools: tuple[Source, ...]
    transform: Transform
    near: float | None
    units: int

    def write(self, key: str, *tables: pa.Table) -> None:
        write_table(self.artifact.store, f"{self.artifact.key}/{key}", *tables)

    def rows(self, key: str, unit: int, column: str = "unit") -> pa.Table:
        """The rows of one unit (or of what `column` numbers) in a table of all."""
        return read_columns(self.artifact.store, f"{self.artifact.key}/{key}", filters=[(column, "==", unit)])

    def write_array(self, key: str, array: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self.artifact.store.write(f"{self.artifact.key}/{key}", buffer.getvalue())

    def array(self, key: str) -> np.ndarray:
        return np.load(io.BytesIO(self.artifact.store.read(f"{self.artifact.key}/{key}")), allow_pickle=False)

    def records(self, unit: int, only: Container[int] | None = None) -> Iterator[Record]:
        """The images of one unit, in order. See `Source.read`."""
        row = self.rows(UNITS, unit)
        return self.pools[row.column("pool")[0].as_py()].read(json.loads(row.column("content")[0].as_py()), only)


class Pass:
    """One pass over the units; subclasses implement `make`. Picklable."""

    def __init__(self, spec: IngestSpec) -> None:
        self.spec = spec

    def make(self, unit: int) -> None:
        """Read one unit and write its results."""
        raise NotImplementedError


@dataclass(frozen=True)
class Failure:
    """Why a unit failed. `wrong_input`: its images are the cause, so a retry would fail too."""

    reason: str
    wrong_input: bool


def _make(batch: dict[str, np.ndarray], work: Pass) -> dict[str, np.ndarray]:
    unit, error, wrong_input, damaged = int(batch["unit"][0]), "", False, "[]"
    try:
        work.make(unit)
    except Damaged as damage:
        error, damaged = damage.reason, json.dumps(damage.doomed)
    except UserError as wrong:
        error, wrong_input = str(wrong), not isinstance(wrong, RunError)
    except Exception as failure:  # one failed unit does not stop the others; the driver reports it at the end
        error = one_line(failure)
    row = {"unit": unit, "error": error, "wrong_input": wrong_input, "damaged": damaged}
    return {name: np.array([value]) for name, value in row.items()}


def run_pass(work: Pass, units: Sequence[int], cluster: ClusterSection, bar: Bar) -> dict[int, Failure]:
    """Process units in Ray tasks, at most `cluster.actors[1]` at a time. Returns the failures by unit.

    Uses tasks instead of actors: the passes are short, and Ray's worker processes are reused from one to the next.

    Raises:
        Damaged: tables that the units are read by are damaged.
        RunError: Ray stopped.
    """
    import ray.data
    from ray.exceptions import RayError

    size = -(-len(units) // MOST_BLOCKS)
    blocks = [pa.table({"unit": list(units[start : start + size])}) for start in range(0, len(units), size)]
    dataset = ray.data.from_blocks(blocks).map_batches(
        _make,
        fn_args=(work,),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.TaskPoolStrategy(size=cluster.actors[1]),
        num_cpus=cluster.actor_cpus,
    )
    failures: dict[int, Failure] = {}
    damages: list[Damaged] = []
    try:
        for row in dataset.iter_rows():
            if keys := json.loads(row["damaged"]):
                damages.append(Damaged(keys, row["error"]))
            elif row["error"]:
                failures[row["unit"]] = Failure(row["error"], row["wrong_input"])
            else:
                bar.advance(1)
    except RayError as error:
        raise RunError(
            f"Ray stopped ({one_line(error)}); finished parts are kept: run the same command again to resume"
        ) from error
    if damages:
        raise joined(damages)
    return failures


class Scan(Pass):
    """Decodes every image of a unit. Writes its name, label, pixel hash and size, or the reason why it cannot be used."""

    def make(self, unit: int) -> None:
        spec, columns = self.spec, {name: list[Any]() for name in SCAN_SCHEMA.names}
        small: list[np.ndarray] = []
        kept: list[np.ndarray] = []
        labelled = spec.pools[0].labelled
        pool = spec.rows(UNITS, unit).column("pool")[0].as_py()
        for record in spec.records(unit):
            found: dict[str, Any] = {"name": record.name, "label": _text(record.label)}
            try:
                if record.error or record.left_out:
                    raise Unusable(record.error or LEFT_OUT + record.left_out)
                if labelled and pool == 0 and record.label is None:
                    raise Unusable("has no label")
                pixels = spec.transform(record.content)
                found |= {"digest": digest(pixels), "height": pixels.shape[0], "width": pixels.shape[1]}
                found["turned"] = spec.transform.upright and is_turned(record.content)
                small.append(thumbnails(pixels[None])[0])
                if spec.near is not None:
                    kept.append(pixels.ravel() if pixels.dtype == np.uint8 else pixels.ravel() / np.float32(DEEP))
            except Unusable as error:
                found["error"] = str(error)
            for name, values in columns.items():
                values.append(found.get(name))
        if kept:
            spec.write_array(pixels_key(unit), _stack(kept))
        spec.write_array(thumbnails_key(unit), _stack(small))
        spec.write(scan_key(unit), pa.table(columns, SCAN_SCHEMA))


def _text(text: str | None) -> str | None:
    """Text that Arrow takes: JSON may hold half of a surrogate pair."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """Those of the first image's size; images of several sizes are refused before they would be compared."""
    return np.stack([image for image in images if image.shape == images[0].shape]) if images else np.empty(0, np.uint8)


def digest(pixels: np.ndarray) -> bytes:
    """128-bit BLAKE2b hash of pixels [H, W, C] and of their shape and depth."""
    hashed = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
    hashed.update(pixels.tobytes())
    if pixels.dtype == np.uint16:
        hashed.update(b"16")
    return hashed.digest()


class Write(Pass):
    """Writes the chosen images of a unit as canonical parts; each part is sorted by split, then by id."""

    def make(self, unit: int) -> None:
        plan = self.spec.rows(PLAN, unit).sort_by("position")
        chosen = {each["position"]: each for each in plan.to_pylist()}
        last, part, images = max(chosen), plan.column("part")[0].as_py(), list[dict[str, Any]]()
        for position, record in enumerate(self.spec.records(unit, chosen)):
            wanted = chosen.get(position)
            if wanted is not None:
                if wanted["part"] != part:
                    self._write_part(part, images)
                    part, images = wanted["part"], []
                image = {"bytes": self._png(record, wanted["digest"]), "path": record.name}
                images.append({**wanted, "image": image, "caption": _text(record.caption)})
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
            "data.path: its images changed while they were read; leave them unchanged and run the same command again"
        )

    def _write_part(self, part: int, images: list[dict[str, Any]]) -> None:
        tables = []
        for split in SPLITS:
            rows = [each for each in images if each["split"] == split]
            if rows:
                columns = {name: [each[name] for each in rows] for name in ("id", "split", "label", "group", "caption")}
                image = pa.array([each["image"] for each in rows], IMAGE_TYPE)
                tables.append(pa.table({**columns, "image": image}, schema=SCHEMA))
        self.spec.write(part_name(part), *tables)
