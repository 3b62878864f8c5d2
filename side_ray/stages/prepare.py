"""Step: write the training images as canonical Parquet, split into members and two sets of unseen images."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from side_ray.config import Config
from side_ray.errors import Damaged, RunError, UserError
from side_ray.execution.audit import Audit
from side_ray.execution.ingest.near import ALIKE, BLOCK_IMAGES, DISTINCT, Duplicates, Near, alike_key, near_key
from side_ray.execution.ingest.passes import (
    PART_IMAGES,
    PLAN_SCHEMA,
    UNITS,
    IngestSpec,
    Pass,
    Scan,
    Write,
    pixels_key,
    run_pass,
    scan_key,
    thumbnails_key,
)
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray
from side_ray.runs.dataset import DUPLICATES, PLAN, Groups, duplicates_table, split_table
from side_ray.runs.run import Artifact, part_name
from side_ray.similarity.duplicates import groups as groups_of
from side_ray.similarity.duplicates import near_pairs, thumbnails
from side_ray.sources.inventory import LEFT_OUT, check_enough, inventory, told
from side_ray.sources.pools import transform_of
from side_ray.sources.published.digits import load_digits
from side_ray.sources.reading.pixels import Unusable
from side_ray.sources.select import (
    SPLITS,
    Alike,
    Census,
    Chosen,
    Split,
    capped,
    choose,
    split_indices,
    without_near,
)
from side_ray.storage.sealed import read_table, write_table

BROKEN, INFO = "broken.json", "info.json"
EARLIER_SCAN = "scan/scan-"
READERS = 16
"""Small tables that the driver reads concurrently, because object storage has a high latency."""


def prepare(audit: Audit, beside: Artifact | None = None) -> None:
    """Write `part-*.parquet`; does nothing if the artifact is complete.

    An artifact of an earlier version, which knows nothing of duplicates, is written again: its members stay what they are.

    Args:
        beside: images prepared from the same source, of which no set here may hold a copy or near duplicate.

    Raises:
        UserError: the source holds too few images for the splits, images that cannot be used, or images of several sizes.
        RunError: a part of the source could not be read.
    """
    artifact = audit.artifacts.prepare
    exists = audit.has(artifact)
    if exists and "distinct" in artifact.info():
        audit.reporter.say("prepare: the images exist already")
    else:
        if exists:
            audit.reporter.say(
                f"prepare: {artifact.key} is of an earlier version, which did not look for duplicates: it is written again, with "
                "the same members"
            )
        if audit.config.data.source == "digits":
            _write_digits(audit.config, artifact, beside)
        else:
            _Preparation(audit, beside).run()
        _tell(artifact.info(), audit.reporter)
    audit.run.point_latest(prepare=artifact.key)


def _tell(info: dict[str, Any], reporter: Reporter) -> None:
    reporter.say(f"prepare: {info['member']:,} members, {info['calibration']:,} + {info['holdout']:,} unseen images")
    for split in SPLITS:
        found = info["duplicates"][split]
        if found["exact"] or found["near"]:
            reporter.say(
                f"prepare: {split}: {found['exact']:,} exact and {found['near']:,} near duplicates, so {info[split]:,} images "
                f"count as {info['distinct'][split]:,}; the largest group has {found['largest']:,}"
            )
    if any(info["left_out"].values()):
        reporter.say(
            f"prepare: {info['left_out']['exact']:,} exact and {info['left_out']['near']:,} near copies of members were kept out "
            "of the unseen images"
        )


def _finish(artifact: Artifact, groups: dict[Split, Groups], left_out: dict[str, int], **info: Any) -> None:
    """Write what is known of duplicates, and mark the artifact as complete."""
    artifact.write_table(DUPLICATES, duplicates_table(groups))
    sizes = {split: each.size for split, each in groups.items()}
    info["distinct"] = {split: each.distinct for split, each in groups.items()}
    info["duplicates"] = {split: each.summary() for split, each in groups.items()}
    known = artifact.read_json(INFO) if artifact.store.exists(f"{artifact.key}/{INFO}") else {"sources": []}
    counted = {"duplicates": info["duplicates"], "distinct": info["distinct"], "left_out": left_out}
    artifact.write_json(INFO, known | counted)
    artifact.finish(**info, **sizes, left_out=left_out)


def _write_digits(config: Config, artifact: Artifact, beside: Artifact | None) -> None:
    source = load_digits()
    contents = np.unique(source.images.reshape(len(source), -1), axis=0, return_inverse=True)[1].ravel()
    _, first = np.unique(contents, return_index=True)
    small = thumbnails(source.images[first])
    rows, columns, shares = near_pairs(small, small)
    later = rows < columns
    alike = Alike(contents, np.stack([rows, columns], axis=1)[later], shares[later])
    taken = (
        None if beside is None else alike.copies(_read_table(beside, PLAN, ["position"]).column("position").to_numpy())
    )
    chosen, left_out = split_indices(config.data, len(source), config.run.seed, alike=alike, taken=taken)
    groups = {}
    for number, (split, indices) in enumerate(chosen.items()):
        own = groups_of(contents[indices], alike.pairs, alike.shares)
        groups[split] = Groups.of(own, contents[indices])
        table = split_table(source, indices, split, own)
        write_table(artifact.store, f"{artifact.key}/{part_name(number)}", table)
    drawn = np.concatenate(list(chosen.values()))
    plan = pa.table({"unit": np.zeros(len(drawn), np.int32), "position": drawn})
    artifact.write_table(PLAN, plan)
    shape = list(source.images.shape[1:])
    _finish(artifact, groups, left_out, source="digits", shape=shape, classes=10, parts=len(SPLITS))


def _read_table(artifact: Artifact, key: str, columns: list[str] | None = None) -> pa.Table:
    try:
        return read_table(artifact.store, f"{artifact.key}/{key}", columns)
    except Damaged as damage:
        raise Damaged(damage.keys, damage.reason, artifact.marks) from None


class _Preparation:
    """Reads one data source into the run. The driver holds some tens of bytes per image, never an image."""

    def __init__(self, audit: Audit, beside: Artifact | None) -> None:
        self.beside = beside
        self.config, self.data, self.reporter = audit.config, audit.config.data, audit.reporter
        self.artifact, self.pools = audit.artifacts.prepare, audit.artifacts.pools
        self.unit_pools: list[int] = []
        self.sources: list[dict[str, Any]] = []

    def run(self) -> None:
        self._list_units()
        units = range(len(self.unit_pools))
        self._run_pass(Scan(self._spec()), "read", {unit: [scan_key(unit), thumbnails_key(unit)] for unit in units})
        with ThreadPoolExecutor(READERS) as readers:
            columns = ["label", "digest", "height", "width"]
            scans = list(readers.map(lambda unit: self._table(scan_key(unit), columns), units))
        census = Census.of(scans, self.unit_pools)
        broken = self._check_usable(census)
        self._tell_sources()
        self._tell_depth()
        self._tell_turned()
        shape = self._check_shape(scans)
        candidates = self._candidates(census)
        self._check_enough(census, candidates)
        alike = self._alike(census, candidates)
        self._leave_copies(census, candidates, alike)
        chosen = choose(census, candidates, self.data, self.config.run.seed, alike, self._taken(census, alike))
        groups = {
            split: groups_of(alike.contents[rows], alike.pairs, alike.shares) for split, rows in chosen.rows.items()
        }
        parts = self._write(census, chosen, groups)
        self._warn_of_members(census, candidates)
        for unit in units:
            self.artifact.store.delete(f"{self.artifact.key}/{thumbnails_key(unit)}")
        _finish(
            self.artifact,
            {split: Groups.of(own, alike.contents[chosen.rows[split]]) for split, own in groups.items()},
            chosen.left_out,
            source=self.data.source,
            shape=shape,
            classes=len(chosen.class_names),
            class_names=chosen.class_names,
            images=len(census.usable),
            broken=broken,
            candidates=len(candidates),
            parts=parts,
        )

    def _warn_of_members(self, census: Census, candidates: np.ndarray) -> None:
        """Warn if the members drawn here may not be the training set of an imported model."""
        if self.config.dpm.kind != "import":
            return
        if self.data.holdout_path is None:
            self.reporter.warn(
                f"the unseen images are drawn from {self.data.path}, which is valid only if the imported model was not "
                "trained on them; give unseen images as data.holdout_path"
            )
        elif (count := int((census.pool[candidates] == 0).sum())) > self.data.members:
            self.reporter.warn(
                f"data.members: {self.data.members:,} of the {count:,} images of {self.data.path} are used as members; set it "
                f"to {count} if the imported model was trained on all of them"
            )

    def _check_enough(self, census: Census, candidates: np.ndarray) -> None:
        """Refuse a data set that holds enough images, of which too few can be used. Given samples are compared with all that
        are left."""
        pools = [int((census.pool[candidates] == pool).sum()) for pool in range(len(self.pools))]
        gone = len(census.usable) - len(candidates) + sum(row["found"] - row["read"] for row in self.sources)
        if self.config.given:
            members, unseen = [*pools, 0][:2]
            changes = {"members": min(self.data.members, members), "holdout": min(self.data.holdout, unseen // 2)}
            self.data = self.data.model_copy(update=changes) if gone and members else self.data
            return
        check_enough(self.data, pools, self.sources, "duplicates or data.per_class" if gone else "")

    def _list_units(self) -> None:
        columns: dict[str, list[Any]] = {"unit": [], "pool": [], "content": []}
        for pool, source in enumerate(self.pools):
            for unit in source.units():
                columns["unit"].append(len(columns["unit"]))
                columns["pool"].append(pool)
                columns["content"].append(json.dumps(unit))
        self.unit_pools = columns["pool"]
        self._put(UNITS, pa.table(columns), rows=4)

    def _spec(self) -> IngestSpec:
        near = self.data.dedup_bound if self.data.dedup == "near" else None
        return IngestSpec(self.artifact, self.pools, transform_of(self.data), near, len(self.unit_pools))

    def _run_pass(self, work: Pass, verb: str, outputs: dict[int, list[str]]) -> None:
        """Run a pass over the units of which an output (key relative to the artifact) is missing."""
        existing = {entry.key for entry in self.artifact.store.list(self.artifact.key)}
        missing = [
            unit for unit, keys in outputs.items() if not {f"{self.artifact.key}/{key}" for key in keys} <= existing
        ]
        if not missing:
            return
        ensure_ray(self.config.cluster)
        with self.reporter.bar(f"prepare: {verb}", len(outputs), "parts", done=len(outputs) - len(missing)) as bar:
            failures = run_pass(work, missing, self.config.cluster, bar)
        if failures:
            wrong = [failure.reason for _, failure in sorted(failures.items()) if failure.wrong_input]
            if wrong:
                raise UserError(wrong[0])
            reason = failures[min(failures)].reason
            raise RunError(
                f"prepare: {len(failures)} of {len(outputs)} parts of {self.data.path} could not be read or written ({reason}); "
                "the others are kept: check that every machine can read the data, and run the same command again"
            )

    def _tell_sources(self) -> None:
        for row in self.sources:
            self.reporter.say(f"prepare: {told(row)}")
        for doubt in filter(None, (pool.doubt() for pool in self.pools)):
            self.reporter.warn(
                f"{doubt}; give the folder or a pattern of those that the model was trained on, if not all"
            )

    def _tell_depth(self) -> None:
        """Warn where gray images of 16 bits become RGB of 8."""
        if transform_of(self.data).grayscale or not self.data.item("data.source").converts:
            return
        gray = transform_of(self.data.model_copy(update={"grayscale": True}))
        with suppress(Unusable, UserError):
            first = next(
                (record for record in self.pools[0].read(next(self.pools[0].units())) if not record.error), None
            )
            if first and first.content is not None and gray(first.content).dtype == np.uint16:
                self.reporter.warn(
                    f"data.grayscale: {first.name} has 16 bits, of which RGB keeps 8; set it to true to keep all"
                )

    def _tell_turned(self) -> None:
        """Warn of images that are turned by their EXIF data, if it is not known whether the model saw them so."""
        if not self.config.unknown_training:
            return
        count = 0
        for unit in range(len(self.unit_pools)):
            table = self._table(scan_key(unit))
            count += (pc.sum(table.column("turned")).as_py() or 0) if "turned" in table.column_names else 0
        if count:
            self.reporter.warn(
                f"data.exif_orientation: {count:,} images are turned upright, as their EXIF data says; if the model's training "
                "did not do so (torchvision's ImageFolder does not), their copies are not found: set it to false"
            )

    def _check_usable(self, census: Census) -> int:
        """Number of images that cannot be used; lists them in `broken.json`, and all that is not read in `info.json`. Raises
        UserError unless they may be skipped."""
        found: list[dict[str, str]] = []
        unused: list[list[tuple[str, str]]] = [[] for _ in self.pools]
        for unit in np.unique(census.unit[~census.usable]).tolist():
            table = self._table(scan_key(unit), ["name", "error"])
            rows = table.filter(pc.is_valid(table.column("error"))).to_pylist()
            unused[self.unit_pools[unit]] += [(row["name"], row["error"]) for row in rows]
            found += [row for row in rows if not row["error"].startswith(LEFT_OUT)]
        counts = np.bincount(census.pool, minlength=len(self.pools)).tolist()
        self.sources = inventory(self.pools, counts, unused)
        self.artifact.write_json(INFO, {"sources": self.sources})
        if not found:
            return 0
        self.artifact.write_json(BROKEN, found)
        named = "; ".join(f"{each['name']}: {each['error']}" for each in found[:3])
        named += "; …" if len(found) > 3 else ""
        where = f"all are listed in {self.artifact.store.uri}/{self.artifact.key}/{BROKEN}"
        count = f"{len(found):,} of {len(census.usable):,} images cannot be used"
        if not self.data.skip_corrupt:
            raise UserError(
                f"data.path: {count}; repair or remove them, or skip them with data.skip_corrupt=true ({named}); {where}"
            )
        self.reporter.warn(f"{count} ({named}) and are skipped; {where}")
        return len(found)

    def _check_shape(self, scans: Sequence[pa.Table]) -> list[int]:
        """[H, W, C] of all usable images. Raises UserError if they have several sizes."""
        sizes: dict[tuple[int, int], int] = {}
        for unit, table in enumerate(scans):
            for size in (
                table.filter(pc.is_valid(table.column("digest")))
                .select(["height", "width"])
                .group_by(["height", "width"])
                .aggregate([])
                .to_pylist()
            ):
                sizes.setdefault((size["height"], size["width"]), unit)
        if len(sizes) > 1:
            shown = ", ".join(
                f"{width}×{height} ({self._example(size, unit)})"
                for size, unit in list(sizes.items())[:3]
                for height, width in [size]
            )
            raise UserError(
                f"data.image_size: the images of {self.data.path} have {len(sizes)} sizes, among them {shown}; give "
                "data.image_size, to which all are cropped and resized"
            )
        height, width = next(iter(sizes), (0, 0))
        return [height, width, transform_of(self.data).channels]

    def _example(self, size: tuple[int, int], unit: int) -> str:
        table = self._table(scan_key(unit), ["name", "height", "width"])
        same = pc.and_(pc.equal(table.column("height"), size[0]), pc.equal(table.column("width"), size[1]))
        return str(table.filter(same).column("name")[0].as_py())

    def _candidates(self, census: Census) -> np.ndarray:
        """Census indices int64 [n], ascending, of the images that the splits are drawn from."""
        candidates = np.flatnonzero(census.usable) if self.data.dedup == "none" else census.distinct()
        if self.data.dedup == "near":
            candidates = without_near(candidates, self._near_pairs(census, candidates))
        left_out = int(census.usable.sum()) - len(candidates)
        if left_out:
            self.reporter.say(f"prepare: left out {left_out:,} duplicates")
        if self.data.per_class is not None:
            candidates = capped(census, candidates, self.data.per_class, self.config.run.seed)
        return candidates

    def _near_pairs(self, census: Census, candidates: np.ndarray) -> np.ndarray:
        places = {"unit": census.unit[candidates], "row": _rows_in_units(census, candidates), "index": candidates}
        self._put(DISTINCT, pa.table(places), rows=4096)
        units = range(len(self.unit_pools))
        self._run_pass(Near(self._spec()), "compare", {unit: [near_key(unit)] for unit in units})
        pairs = pa.concat_tables([self._table(near_key(unit)) for unit in units])
        for unit in units:
            self.artifact.store.delete(f"{self.artifact.key}/{pixels_key(unit)}")
        return np.stack([pairs.column("first").to_numpy(), pairs.column("second").to_numpy()], axis=1)

    def _alike(self, census: Census, candidates: np.ndarray) -> Alike:
        """Which of the candidates show the same. Equal ones are compared with the others once."""
        contents = census.contents()
        if not len(candidates):
            return Alike(contents, np.empty((0, 2), np.int64), np.empty(0))
        _, first = np.unique(contents[candidates], return_index=True)
        distinct = candidates[np.sort(first)]
        # A block holds whole units, so that each file of thumbnails is read for one block.
        ends = np.searchsorted(census.unit[distinct], census.unit[distinct], side="right")
        block = np.unique((ends - 1) // BLOCK_IMAGES, return_inverse=True)[1]
        places = {"unit": census.unit[distinct], "row": _rows_in_units(census, distinct), "index": distinct}
        self._put(ALIKE, pa.table({"block": block, **places}), rows=4096)
        blocks = range(int(block.max(initial=-1)) + 1)
        passed = Duplicates(self._spec(), len(blocks))
        self._run_pass(passed, "look for duplicates", {each: [alike_key(each)] for each in blocks})
        found = [self._table(alike_key(each)) for each in blocks]
        first, second, shares = (
            np.concatenate([table.column(name).to_numpy() for table in found]) for name in ("first", "second", "share")
        )
        return Alike(contents, np.stack([contents[first], contents[second]], axis=1), shares)

    def _taken(self, census: Census, alike: Alike) -> np.ndarray | None:
        """bool [N], the images of the census that `beside` holds, and their copies."""
        if self.beside is None:
            return None
        plan = _read_table(self.beside, PLAN, ["unit", "position"])
        starts = np.searchsorted(census.unit, plan.column("unit").to_numpy())
        return alike.copies(starts + plan.column("position").to_numpy())

    def _leave_copies(self, census: Census, candidates: np.ndarray, alike: Alike) -> None:
        """Given samples are compared with all unseen images that are left when the copies of members are gone."""
        if self.config.given and self.data.holdout_path:
            second = census.pool[candidates] == 1
            left = int((~alike.copies(candidates[~second])[candidates[second]]).sum())
            changes = {"holdout": min(self.data.holdout, max(1, left // 2))}
            self.data = self.data.model_copy(update=changes) if self.data.holdout else self.data

    def _write(self, census: Census, chosen: Chosen, groups: dict[Split, np.ndarray]) -> int:
        """Assign each chosen image to a part and write the parts. Returns their number."""
        self._clear_earlier_version()
        rows = np.concatenate([chosen.rows[split] for split in SPLITS])
        sizes = [len(chosen.rows[split]) for split in SPLITS]
        order = np.argsort(rows)
        ids = np.concatenate([np.arange(size) for size in sizes])[order]
        splits = np.repeat(np.array(SPLITS), sizes)[order]
        rows = rows[order]
        units = census.unit[rows]
        # Parts are numbered consecutively, and each holds images of one unit only.
        starts = np.flatnonzero(np.r_[True, np.diff(units) != 0])
        within = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
        parts = np.cumsum((within % PART_IMAGES) == 0) - 1
        labels = chosen.class_of[census.label[rows]]
        plan = {
            "unit": units,
            "position": census.position[rows],
            "part": parts.astype(np.int32),
            "split": splits.tolist(),
            "id": ids,
            "label": pa.array(labels, pa.int64(), mask=labels < 0),
            "group": np.concatenate([groups[split] for split in SPLITS])[order],
            "digest": pa.array(census.digest[rows].tolist(), pa.binary(census.digest.dtype.itemsize)),
        }
        self.artifact.write_table(PLAN, pa.table(plan, schema=PLAN_SCHEMA), rows=4096)
        outputs: dict[int, list[str]] = {}
        for unit, part in sorted({(int(unit), int(part)) for unit, part in zip(units, parts, strict=True)}):
            outputs.setdefault(unit, []).append(part_name(part))
        self._run_pass(Write(self._spec()), "write", outputs)
        return int(parts[-1]) + 1

    def _clear_earlier_version(self) -> None:
        """Remove the parts of an earlier version, which knew no groups and no captions, and its scans."""
        store, key = self.artifact.store, self.artifact.key
        keys = [entry.key for entry in store.list(key)]
        first = f"{key}/{PLAN}" in keys and "group" not in self._table(PLAN).column_names
        if first or any(each.startswith(f"{key}/{EARLIER_SCAN}") for each in keys):
            for each in keys:
                if each.startswith((f"{key}/part-", f"{key}/{EARLIER_SCAN}")):
                    store.delete(each)

    def _put(self, key: str, table: pa.Table, rows: int) -> None:
        write_table(self.artifact.store, f"{self.artifact.key}/{key}", table, rows=rows)

    def _table(self, key: str, columns: list[str] | None = None) -> pa.Table:
        return _read_table(self.artifact, key, columns)


def _rows_in_units(census: Census, indices: np.ndarray) -> np.ndarray:
    """The row int64 [n] of each image in what the scan saved of its unit, which is of usable images only."""
    usable = np.cumsum(census.usable)
    before = np.r_[0, usable][np.searchsorted(census.unit, census.unit[indices])]
    return usable[indices] - 1 - before
