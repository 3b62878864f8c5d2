"""Memory of the driver during the generation of a million samples, rows per second, and Ray's share of the time.

    python -m bench.stream [--samples 1000000] [--actors 2]

The samples are tiny (4×4 pixels, two steps, the closed-form DPM of 64 random images), so that the overhead has its largest
share. The driver's memory at the end is compared with that after 50,000 samples.
"""

import argparse
import os
import tempfile
import threading
from pathlib import Path

import psutil
import torch

from side_ray.config import ExtractSection
from side_ray.config.file import load_config
from side_ray.diffusion.draw import DrawSettings
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.execution.progress import Bar
from side_ray.execution.session import ensure_ray, shut_down
from side_ray.execution.shard_pool import Task, run_tasks
from side_ray.runs.shards import ShardSet
from side_ray.stages.extract import Generator, GeneratorSpec, SamplingJob
from side_ray.storage import open_store

SHARD = 500
EARLY = 50_000


class Memory(threading.Thread):
    """Resident memory of this process in bytes by number of finished samples, recorded once per second."""

    def __init__(self, bar: Bar) -> None:
        super().__init__(daemon=True)
        self.bar, self.process, self.over = bar, psutil.Process(os.getpid()), threading.Event()
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self.over.wait(1.0):
            self.seen.append((self.bar.done, self.process.memory_info().rss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    actors = f"cluster.actors=[{options.actors}, {options.actors}]"
    config = load_config(Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml", [actors])
    extract = ExtractSection(
        lambdas=[0], methods=["random"], samples=SHARD, shard_size=SHARD, batch_size=SHARD, steps=2
    )
    settings = DrawSettings.of(extract, "fp32")
    with tempfile.TemporaryDirectory() as name:
        images = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
        Path(name, "dpm").mkdir()
        OptimalDpm(images, new_schedule()).save(Path(name, "dpm"))
        store = open_store(name)
        shards = ShardSet(store, "samples", "bench", SHARD)
        job = SamplingJob(shards, options.samples // SHARD, "extract", 0.0, None)
        spec = GeneratorSpec(store, "dpm", [job], settings, 0, 1)
        tasks = [Task(0, index) for index in range(options.samples // SHARD)]
        ensure_ray(config.cluster)
        bar = Bar("stream", options.samples, "samples", 0)
        memory = Memory(bar)
        memory.start()
        outcome = run_tasks(Generator, spec, tasks, config, bar)
        memory.over.set()
        memory.join()
        written = sorted(shards.written().values())
        shut_down()
    wall = written[-1] - written[0]
    busy = sum(outcome.seconds.values()) * (len(tasks) - 1) / len(tasks)
    early = next(rss for done, rss in memory.seen if done >= min(EARLY, options.samples))
    last = memory.seen[-1][1]
    print(f"{options.samples:,} samples, {outcome.finished:,} shards: {options.samples / wall:,.0f} rows/s")
    print(
        "seconds of the actors by phase: " + ", ".join(f"{name} {value:.0f}" for name, value in outcome.seconds.items())
    )
    print(f"outside the phases: {1 - busy / (options.actors * wall):.1%} of the actors' time")
    print(
        f"driver {early / 2**20:.0f} MiB after {EARLY:,} samples, {last / 2**20:.0f} MiB at the end: × {last / early:.3f}"
    )


if __name__ == "__main__":
    main()
