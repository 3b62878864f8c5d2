"""Exact scoring compared with FAISS computing the same result, with USearch's exact search, and with the bare matrix product.

    python bench/score.py [--scale 0.1] [--threads 2] [--shape nl2] [--check 0]

Two shapes at scale 1: nl2 20,000 samples × 50,000 training images × 3,072 pixel values (CIFAR-10), sscd 50,000 × 25,000 ×
512 unit vectors. One sample in ten is a near copy of a training image. k = 50, all bands. Each method runs in its own
process with the same number of threads; its peak memory excludes the inputs. Some samples are compared with a float64 brute
force: the ids of all 50 neighbours (ties by the smaller id) and the counts of every training image in every band.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from side_ray.search import Counts, Engine, Index, Levels, Metric, Neighbors, normalize
from side_ray.similarity import SIMILARITIES
from side_ray.similarity.nl2 import Nl2
from side_ray.statistics.bands import Bands
from side_ray.statistics.hits import count_neighbors

K = 50


@dataclass(frozen=True)
class Shape:
    name: str
    samples: int
    train: int
    dimension: int
    at_most: float
    """Time limit of exact scoring as a multiple of FAISS's time."""

    def scaled(self, scale: float) -> "Shape":
        rows = max(1000, int(self.samples * scale)), max(1000, int(self.train * scale))
        return Shape(self.name, *rows, self.dimension, self.at_most)

    @property
    def flops(self) -> float:
        return 2.0 * self.samples * self.train * self.dimension


SHAPES = {"nl2": Shape("nl2", 20_000, 50_000, 3_072, 1 / 4), "sscd": Shape("sscd", 50_000, 25_000, 512, 1 / 6)}


def make_data(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Random samples float32 [Q, d] with planted near copies, and training features float32 [n, d]."""
    rng = np.random.default_rng(0)
    train, samples = (_random(rng, shape, rows) for rows in (shape.train, shape.samples))
    copies = np.arange(0, shape.samples, 10)
    sources = train[rng.integers(0, shape.train, copies.size)]
    if shape.name == "nl2":
        amount = rng.integers(0, 60, (copies.size, 1))
        samples[copies] = np.clip(sources + rng.integers(-1, 2, sources.shape) * amount, 0, 255)
    else:
        amount = rng.uniform(0, 1.5, (copies.size, 1)).astype(np.float32)
        samples[copies] = _unit(sources + amount * samples[copies])
    return samples, train


def _random(rng: np.random.Generator, shape: Shape, rows: int) -> np.ndarray:
    data = np.empty((rows, shape.dimension), np.float32)
    for start in range(0, rows, 2000):
        block = data[start : start + 2000]
        if shape.name == "nl2":
            block[:] = rng.integers(0, 256, block.shape, np.uint8)
        else:
            block[:] = _unit(rng.standard_normal(block.shape, np.float32))
    return data


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def levels_of(shape: Shape) -> Levels:
    larger = shape.name == "sscd"
    return Bands.make(None, SIMILARITIES[shape.name]).levels(0.45 if larger else 1.38)


def exact(shape: Shape, threads: int, kernel: str | None, engine: Engine, checked: int) -> dict[str, Any]:
    """Side-ray: neighbours and counts at all levels."""
    samples, train = make_data(shape)
    metric: Metric = "l2" if shape.name == "nl2" else "ip"
    # Compilation (once per machine) and loading are not part of the search time.
    score(shape, Index(train[:2000], np.arange(2000), metric, kernel=kernel, engine="torch"), samples[:100])
    measure = _Measure()
    index = Index(
        train,
        np.arange(shape.train),
        metric,
        threads=threads,
        kernel=kernel,
        engine=engine,
    )
    neighbors, counts = score(shape, index, samples)
    result = measure.stop() | {"engine": index.engine, "kernel": index.kernel.name}
    if shape.name == "nl2":
        # The paper's low band reaches up to 10, beyond the stored neighbours, which takes a second pass.
        start = time.perf_counter()
        paper = Bands.make("paper", Nl2).levels()
        index.count(samples, paper, Nl2().denominator(neighbors))
        result["paper_bands_seconds"] = time.perf_counter() - start
    return result | {"mismatches": check(shape, index, samples, train, (neighbors, counts), checked)}


def score(shape: Shape, index: Index, samples: np.ndarray) -> tuple[Neighbors, Counts]:
    """The work of a scorer on one block of samples."""
    if shape.name == "sscd":
        neighbors, counts = index.search(samples, K, levels_of(shape))
        assert counts is not None
        return neighbors, counts
    neighbors, _ = index.search(samples, K)
    return neighbors, count_neighbors(neighbors, Nl2().values(neighbors), levels_of(shape))


def check(
    shape: Shape, index: Index, samples: np.ndarray, train: np.ndarray, found: tuple[Neighbors, Counts], checked: int
) -> int:
    """Number of neighbours and counts that differ from float64 brute force, for `checked` samples (0 = all) including copies."""
    step = 1 if checked == 0 else max(1, shape.samples // checked) // 10 * 10 + 1
    rows = np.arange(0, shape.samples, step)[: checked or None]
    neighbors, counts = found if checked == 0 else score(shape, index, samples[rows])
    train64, levels = train.astype(np.float64), levels_of(shape)
    norms = np.einsum("ij,ij->i", train64, train64)
    wrong, parts = int((neighbors.ids != found[0].ids[rows]).sum()), []
    for start in range(0, rows.size, 200):
        block = samples[rows[start : start + 200]].astype(np.float64)
        values = block @ train64.T
        if shape.name == "nl2":
            # Exact, since these are integers below 2^53.
            values = np.sqrt(np.einsum("ij,ij->i", block, block)[:, None] + norms - 2 * values)
        keys = values if shape.name == "nl2" else -values
        order = np.argsort(keys, axis=1, kind="stable")[:, :K]
        wrong += int((order != neighbors.ids[start : start + 200]).sum())
        if shape.name == "nl2":
            denominator = 0.5 * np.take_along_axis(values, order, 1).mean(axis=1)
            values = normalize(values, denominator[:, None])
        level = levels.assign(values)
        sample_rows, columns = np.nonzero(level >= 0)
        parts.append(Counts.of_pairs(level[sample_rows, columns], columns, sample_rows + start))
    wanted = Counts.merge(parts)
    return wrong + len(_triples(wanted, levels) ^ _triples(counts, levels))


def _triples(counts: Counts, levels: Levels) -> set[tuple[int, int, int]]:
    chosen = np.isin(counts.levels, [number for number, names in enumerate(levels.labels) if names])
    arrays = (counts.levels[chosen], counts.train_ids[chosen], counts.counts[chosen])
    return set(zip(*(array.tolist() for array in arrays), strict=True))


def by_faiss(shape: Shape, threads: int) -> dict[str, Any]:
    """FAISS: search with k = 50 and, for sscd, a range search at 0.4."""
    import faiss

    samples, train = make_data(shape)
    faiss.omp_set_num_threads(threads)
    measure = _Measure()
    index = faiss.IndexFlatL2(shape.dimension) if shape.name == "nl2" else faiss.IndexFlatIP(shape.dimension)
    index.add(train)
    index.search(samples, K)
    if shape.name == "sscd":
        index.range_search(samples, 0.4)
    return measure.stop()


def bare_product(shape: Shape, threads: int) -> dict[str, Any]:
    """Only the float32 matrix product, in large blocks; its result is discarded."""
    samples, train = make_data(shape)
    torch.set_num_threads(threads)
    a, b = torch.from_numpy(samples), torch.from_numpy(train)
    out = torch.empty(2048, 8192)
    measure = _Measure()
    for row in range(0, shape.samples, 2048):
        for column in range(0, shape.train, 8192):
            left, right = a[row : row + 2048], b[column : column + 8192]
            torch.mm(
                left,
                right.T,
                out=out[: len(left), : len(right)].contiguous() if len(right) < 8192 else out[: len(left)],
            )
    return measure.stop()


def by_usearch(shape: Shape, threads: int) -> dict[str, Any]:
    """USearch: its exact search with k = 50; it has no range search, so the counts of sscd are left out."""
    from usearch.index import MetricKind, search

    samples, train = make_data(shape)
    metric = MetricKind.L2sq if shape.name == "nl2" else MetricKind.IP
    search(train[:1000], samples[:100], K, metric, exact=True, threads=threads)
    measure = _Measure()
    search(train, samples, K, metric, exact=True, threads=threads)
    return measure.stop()


class _Measure:
    """Seconds, CPU seconds (less noisy on a shared machine), and memory in addition to that at the start."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = _memory("VmRSS")
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def stop(self) -> dict[str, Any]:
        seconds, cpu = time.perf_counter() - self.start, time.process_time() - self.cpu_start
        return {"seconds": seconds, "cpu_seconds": cpu, "added_mib": (_memory("VmHWM") - self.before) / 1024}


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def apart(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Runs in a new process, so that memory and OpenMP settings do not carry over."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def run(shape: Shape, threads: int, engine: Engine, checked: int) -> dict[str, Any]:
    """Run all methods on one shape and print each result."""
    print(f"\n{shape.name}: {shape.samples:,} × {shape.train:,} × {shape.dimension:,}, {threads} thread(s)")
    ways: dict[str, tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = {
        "bare float32 product": (bare_product, ()),
        "side-ray": (exact, (None, engine, checked)),
        "side-ray, float32": (exact, ("float32", "torch", checked)),
        "faiss": (by_faiss, ()),
    }
    if find_spec("usearch"):
        ways["usearch"] = by_usearch, ()
    else:
        print("  usearch is not installed (pip install usearch), and left out")
    results = {}
    for name, (function, args) in ways.items():
        result = results[name] = apart(function, shape, threads, *args)
        rate = shape.flops / result["seconds"] / 1e9
        notes = ", ".join(
            f"{key} {value}" for key, value in result.items() if key not in ("seconds", "cpu_seconds", "added_mib")
        )
        clocks = f"{result['seconds']:8.2f} s {result['cpu_seconds']:8.2f} s of processors"
        print(f"  {name:21s} {clocks} {rate:6.0f} GFLOP/s +{result['added_mib']:5.0f} MiB  {notes}", flush=True)
    for name in ("side-ray", "side-ray, float32"):
        for clock in ("seconds", "cpu_seconds"):
            seconds = results[name][clock]
            print(
                f"  {name}, {clock}: {seconds / results['faiss'][clock]:.3f} of FAISS's (wanted ≤ {shape.at_most:.3f}), "
                f"{results['bare float32 product'][clock] / seconds:.2f} of the bare product's speed (wanted ≥ 0.70)"
            )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows on both sides")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shape", choices=SHAPES, action="append", help="one shape; both by default")
    parser.add_argument("--engine", choices=("auto", "torch", "faiss"), default="auto")
    parser.add_argument("--check", type=int, default=200, help="samples compared with brute force; 0 = all")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args()
    shapes = [SHAPES[name].scaled(options.scale) for name in options.shape or SHAPES]
    results = {shape.name: run(shape, options.threads, options.engine, options.check) for shape in shapes}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
