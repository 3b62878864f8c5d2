"""Memory of the exact search in a large training set: 10⁶ descriptors of 512 dimensions, 10⁴ samples, all bands.

    python -m bench.memory [--rows 1000000] [--queries 10000] [--threads 2] [--check 20] [--directory DIR] [--json FILE]

Writes unit vectors as an audit stores descriptors (`features/…/part-*.parquet`) into a temporary directory (2.2 GB, removed at
the end), and searches them as a scorer does: a `SearchPart` loads them, finds the 50 nearest of every sample and counts the
training images in every band. It runs in a process of its own, whose memory is read every 20 ms. `RssAnon` is the process's own
memory; resident memory (`VmRSS`) also holds the mapped features, which all scorers of a machine share. One sample in ten is a
near copy. Some samples are compared with a float64 brute force.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.score import SHAPES, K, _memory, _triples, _unit, apart, levels_of
from side_ray.config import ScoreSection
from side_ray.execution.search_actors import SearchPart
from side_ray.runs.dataset import PartFeatures, StoredFeatures, feature_columns
from side_ray.runs.run import Artifact
from side_ray.search import Counts, Neighbors
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.base import EncoderSimilarity
from side_ray.storage import open_store

DIMENSION, PART = 512, 1024
LIMITS = {"RssAnon": 1024, "VmRSS": 3072}
"""MiB."""
EVERY = 0.02
"""Seconds between two readings of the memory."""


class Vectors(EncoderSimilarity):
    """Descriptors that are stored already, as of any encoder with `DIMENSION` dimensions, without its network."""

    name = "vectors"
    display_name = "vectors"

    @classmethod
    def from_config(cls, score: Any) -> "Vectors":
        return cls()

    @classmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        return DIMENSION

    def params(self) -> dict[str, Any]:
        return {}

    def embed(self, images: Any) -> np.ndarray:
        return np.zeros((len(images), DIMENSION), np.float32)


def vectors(rows: int) -> Iterator[np.ndarray]:
    """Random unit vectors float32 [rows, 512], part by part."""
    for start in range(0, rows, PART):
        drawn = np.random.default_rng([0, start]).standard_normal((min(PART, rows - start), DIMENSION), np.float32)
        yield _unit(drawn)


def samples(rows: int, queries: int) -> np.ndarray:
    """float32 [queries, 512], every tenth a near copy of one of the first vectors, some of them of the same one."""
    rng, first = np.random.default_rng(1), next(vectors(rows))
    found = np.empty((queries, DIMENSION), np.float32)
    for start in range(0, queries, PART):
        block = found[start : start + PART]
        block[:] = _unit(rng.standard_normal(block.shape, np.float32))
        copies = block[-start % 10 :: 10]
        amount = rng.uniform(0, 1.5, (len(copies), 1)).astype(np.float32)
        copies[:] = _unit(first[rng.integers(0, len(first), len(copies))] + amount * copies)
    return found


def stored(directory: Path, rows: int) -> StoredFeatures:
    parts = -(-rows // PART)
    return StoredFeatures(PartFeatures(open_store(str(directory)), "features/a", "a", PART, rows), parts, {})


def write(directory: Path, rows: int) -> None:
    """The features of as many members, and the mark of the images that they are of."""
    shards, first = stored(directory, rows).images, 0
    for number, each in enumerate(vectors(rows)):
        ids = np.arange(first, first := first + len(each))
        shards.write(number, pa.table({"split": ["member"] * len(each), "id": ids, **feature_columns(each)}))
    Artifact(shards.store, "prepare/a").finish(shape=[32, 32, 3])


class Peaks:
    """The largest values of the memory, in MiB, by phase."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.phase, self._ended = "", threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self, phase: str) -> None:
        self.phase, self.found[phase] = phase, {}
        self._read()
        if not self._thread.is_alive():
            self._thread.start()

    def end(self) -> dict[str, dict[str, float]]:
        self._read()
        self._ended.set()
        self._thread.join()
        return self.found

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            self._read()

    def _read(self) -> None:
        peaks = self.found[self.phase]
        for field in LIMITS:
            peaks[field] = max(peaks.get(field, 0.0), _memory(field) / 1024)


def search(directory: Path, rows: int, queries: int, threads: int, checked: int) -> dict[str, Any]:
    """Load the features, search, and check some of the results. `Vectors` must be registered."""
    levels, wanted = levels_of(SHAPES["sscd"]), samples(rows, queries)
    score = ScoreSection(similarity=Vectors.name, bands={"high": (0.6, None)})
    features = stored(directory, rows)
    part = SearchPart(
        Artifact(features.images.store, "prepare/a"), score, {"member": rows}, 0, 1, threads, stored=features
    )
    peaks, began = Peaks(), time.perf_counter()
    peaks.begin("start")
    peaks.begin("load")
    index = part.load()["member"]
    loaded, resident = time.perf_counter(), _memory("VmRSS") / 1024
    peaks.begin("search")
    answer = part.search("member", wanted, K, levels)
    ended, found, highest = time.perf_counter(), peaks.end(), _memory("VmHWM") / 1024
    assert answer is not None
    neighbors, counts = answer
    assert counts is not None
    chosen = np.arange(queries)[:: max(1, queries // checked) // 10 * 10 + 1][:checked] if checked else np.arange(0)
    wrong = mismatches(rows, wanted[chosen], part, neighbors, chosen) if checked else 0
    return {
        "peaks_mib": found,
        "resident_mib": resident,
        "vm_hwm_mib": highest,
        "load_seconds": loaded - began,
        "search_seconds": ended - loaded,
        "engine": index.engine,
        "kernel": index.kernel.name,
        "counted": int(counts.counts.sum()),
        "checked": len(chosen),
        "mismatches": wrong,
    }


def registered(*arguments: Any) -> dict[str, Any]:
    """`search` in a process of its own."""
    SIMILARITIES.register(Vectors.name, Vectors)
    return search(*arguments)


def mismatches(rows: int, queries: np.ndarray, part: SearchPart, neighbors: Neighbors, chosen: np.ndarray) -> int:
    """Neighbours and counts of some samples that differ from those of float64 products."""
    levels = levels_of(SHAPES["sscd"])
    blocks = [queries.astype(np.float64) @ each.astype(np.float64).T for each in vectors(rows)]
    values = np.concatenate(blocks, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :K]
    answer = part.search("member", queries, K, levels)
    assert answer is not None
    assert answer[1] is not None
    level = levels.assign(values)
    row, column = np.nonzero(level >= 0)
    counts = _triples(Counts.of_pairs(level[row, column], column, row), levels) ^ _triples(answer[1], levels)
    return int((order != neighbors.ids[chosen]).sum()) + len(counts)


def show(result: Mapping[str, Any]) -> None:
    print(f"  {'MiB, at most':14s}" + "".join(f"{field:>10s}" for field in LIMITS))
    for phase, peaks in result["peaks_mib"].items():
        print(f"  {phase:14s}" + "".join(f"{peaks[field]:10.0f}" for field in LIMITS))
    print(f"  {'wanted ≤':14s}" + "".join(f"{limit:10.0f}" for limit in LIMITS.values()))
    print(f"  VmRSS {result['resident_mib']:.0f} MiB once loaded, VmHWM {result['vm_hwm_mib']:.0f} MiB")
    print(
        f"  loaded in {result['load_seconds']:.1f} s, searched in {result['search_seconds']:.1f} s by {result['engine']} "
        f"({result['kernel']}); {result['mismatches']} mismatches in {result['checked']} samples that were checked"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="training images")
    parser.add_argument("--queries", type=int, default=10_000, help="samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--check", type=int, default=20, help="samples compared with brute force")
    parser.add_argument("--directory", help="where the temporary directory is made")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    print(f"{options.queries:,} × {options.rows:,} × {DIMENSION}, {options.threads} thread(s)", flush=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        write(Path(directory), options.rows)
        result = apart(registered, Path(directory), options.rows, options.queries, options.threads, options.check)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
