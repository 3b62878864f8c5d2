"""Samples per second of the extract stage and of bare sampler loops, with one actor and with two.

    python -m bench.extract [--shards 12] [--rounds 3] [--actors 1 2]

Stage and bare processes alternate, so that a busy machine slows both. Start-up times are excluded on both sides. The ratio is
the median over the rounds.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

import torch

from side_ray.config import Config
from side_ray.config.file import load_config
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.draw import DrawSettings, sampler_of
from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import Noise, sample, sample_seed, target_of
from side_ray.diffusion.unet_dpm import new_unet, save_pipeline
from side_ray.execution.progress import Bar
from side_ray.execution.session import ensure_ray, shut_down
from side_ray.execution.shard_pool import Task, run_tasks
from side_ray.images import to_uint8
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.shards import ShardSet
from side_ray.stages.extract import Generator, GeneratorSpec, SamplingJob
from side_ray.surrogate.resnet import ResNet

DIGITS = Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml"


def models(directory: Path, config: Config) -> None:
    """Untrained U-Net and student with the sizes of the digits audit; the speed does not depend on the weights."""
    unet = new_unet(unet_section(config.dpm).model_dump(), (1, 8, 8)).eval()
    save_pipeline(unet, new_schedule().config, directory / "dpm")
    student = ResNet.from_section(config.surrogate, num_classes=config.surrogate.classes, in_channels=1, time=True)
    student.save(directory / "student")


def stage(directory: Path, config: Config, shards: int, actors: int, name: str) -> float:
    """Samples per second between the first and the last shard of the stage."""
    store = Artifacts.open(config).run.store
    output = ShardSet(store, name, "bench", config.extract.shard_size)
    job = SamplingJob(output, shards, "extract", 5.0, "student")
    spec = GeneratorSpec(store, "dpm", [job], DrawSettings.of(config.extract, "fp32"), 0, 1)
    cluster = config.cluster.model_copy(update={"actors": (actors, actors)})
    sized = config.model_copy(update={"cluster": cluster})
    run_tasks(Generator, spec, [Task(0, shard) for shard in range(shards)], sized, Bar("", shards, "", 0))
    written = sorted(output.written().values())
    # The first shard of each actor includes its start-up.
    return (len(written) - actors) * config.extract.shard_size / (written[-1] - written[actors - 1])


def bare(directory: Path, config: Config, shards: int, answer) -> None:
    """A plain loop over the sampler, as in a notebook; nothing is written."""
    torch.set_num_threads(1)
    dpm = load_dpm(directory / "dpm")
    student = ResNet.load(directory / "student").requires_grad_(False)
    settings, size = config.extract, config.extract.batch_size
    rates = []
    began = 0.0
    for batch in range(shards * settings.shard_size // size + 1):
        if batch == 1:  # the first batch is a warm-up
            began = time.perf_counter()
        seeds = [sample_seed(0, "extract", i) for i in range(batch * size, (batch + 1) * size)]
        targets = torch.tensor([target_of(seed, 100) for seed in seeds])
        guidance = ClassifierGuidance(student, targets, torch.full((size,), 5.0))
        to_uint8(sample(dpm, Noise(seeds, (1, 8, 8)), sampler_of(settings), guidance=guidance))
        rates.append(size)
    answer.put(sum(rates[1:]) / (time.perf_counter() - began))


def bare_processes(directory: Path, config: Config, shards: int, processes: int) -> float:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    workers = [
        context.Process(target=bare, args=(directory, config, shards // processes, answer)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [answer.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        config = load_config(DIGITS, [f"run.uri={directory}"])
        models(directory, config)
        ensure_ray(config.cluster)
        for actors in options.actors:
            rounds = [
                (
                    stage(directory, config, options.shards * actors, actors, f"samples-{actors}-{i}"),
                    bare_processes(directory, config, options.shards * actors, actors),
                )
                for i in range(options.rounds)
            ]
            ours, loops = (statistics.median(values) for values in zip(*rounds, strict=True))
            ratio = statistics.median(o / b for o, b in rounds)
            print(
                f"{actors} actor(s) {ours:8.1f} samples/s, {actors} bare process(es) {loops:8.1f} samples/s, ratio {ratio:.3f}"
            )
        shut_down()


if __name__ == "__main__":
    main()
