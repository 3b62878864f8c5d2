"""Images per second of the training stage and of a bare PyTorch loop with the same U-Net, batch and precision.

    python -m bench.train [--steps 40] [--rounds 5] [--threads 1]

Both alternate inside one Ray Train worker, so that a busy machine slows both. The ratio is the median over the rounds.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch.nn import functional

from side_ray.algorithm import run_until
from side_ray.config.file import load_config
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.unet_dpm import new_unet
from side_ray.execution.progress import Reporter
from side_ray.execution.session import ensure_ray, shut_down
from side_ray.images import to_float
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_split
from side_ray.stages.train_dpm import DpmRecipeMaker
from side_ray.training.loop import Schedule, TrainingLoop, TrainSpec

DIGITS = Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml"


def bare_steps(spec: TrainSpec) -> Callable[[int], None]:
    """The loop without side-ray: same network, optimizer, clipping and EMA."""
    settings = spec.recipe.dpm
    images = to_float(read_split(spec.recipe.prepared.store, spec.recipe.prepared.key, "member").images)
    unet = new_unet(unet_section(settings).model_dump(), tuple(images.shape[1:]))
    schedule = new_schedule(settings.schedule, settings.timesteps)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    ema = EMAModel(unet.parameters(), decay=settings.ema_decay, foreach=True)

    def steps(count: int) -> None:
        for _ in range(count):
            x0 = images[torch.randint(len(images), (settings.batch_size,))]
            eps, t = torch.randn_like(x0), torch.randint(settings.timesteps, (len(x0),))
            loss = functional.mse_loss(unet(schedule.add_noise(x0, eps, t), t).sample, eps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), settings.grad_clip)
            optimizer.step()
            ema.step(unet.parameters())

    return steps


def compare(config: dict) -> None:
    """Runs in the Ray Train worker. Writes the seconds of each round to a file, as Ray keeps no metrics without checkpoints."""
    spec, steps, rounds = config["spec"], config["steps"], config["rounds"]
    torch.set_num_threads(spec.threads)
    loop = TrainingLoop(spec)
    bare = bare_steps(spec)

    def ours(count: int) -> None:
        loop.run(until=loop.step + count)

    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for round_ in range(rounds + 1):
        for name, work in (("ours", ours), ("bare", bare)):
            began = time.perf_counter()
            work(steps)
            if round_:  # the first round is a warm-up
                seconds[name].append(time.perf_counter() - began)
    Path(config["answer"]).write_text(json.dumps(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        config = load_config(DIGITS, [f"run.uri={directory}/run", f"cluster.train_cpus={options.threads}"])
        artifacts = run_until("prepare", config, Reporter())
        schedule = Schedule(
            steps=10**6,
            batch_size=config.dpm.batch_size,
            lr=config.dpm.lr,
            weight_decay=config.dpm.weight_decay,
            checkpoint_every=10**6,
            grad_clip=config.dpm.grad_clip,
            ema_decay=config.dpm.ema_decay,
        )
        maker = DpmRecipeMaker(artifacts.prepare, config.dpm, 0)
        spec = TrainSpec(Artifacts.open(config).dpm, maker, schedule, "fp32", options.threads)
        ensure_ray(config.cluster)
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        answer = Path(directory, "seconds.json")
        TorchTrainer(
            compare,
            train_loop_config={"spec": spec, "steps": options.steps, "rounds": options.rounds, "answer": str(answer)},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": options.threads}),
            run_config=RunConfig(name="bench", storage_path=f"{directory}/train"),
        ).fit()
        shut_down()
        seconds = json.loads(answer.read_text())
    images = options.steps * config.dpm.batch_size
    ours, bare = seconds["ours"], seconds["bare"]
    ratio = statistics.median(b / o for o, b in zip(ours, bare, strict=True))
    print(f"training stage  {images / statistics.median(ours):8.1f} images/s")
    print(f"bare loop       {images / statistics.median(bare):8.1f} images/s")
    print(f"ratio           {ratio:8.3f}")


if __name__ == "__main__":
    main()
