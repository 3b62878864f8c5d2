"""Images per second of side-ray's sampler, of a diffusers loop, and of the networks alone, with the same batch and steps.

    python -m bench.sample [--side 8] [--batch 250] [--steps 10] [--rounds 5] [--threads 1] [--device cpu]

They take turns, so that a busy machine slows all. Ratios are medians over the rounds: side-ray's speed as a multiple of that of
a diffusers user's loop (guided: with a naive guidance, which differentiates the classifier with the graph of its parameters), as
a share of that of the networks alone, and how much longer a guided sample takes than a plain one. Wanted: 1.5, 0.85 and 20 %.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from torch import nn
from torch.nn import functional

from side_ray.config.file import load_config
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import Noise, sample, sample_seed
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet
from side_ray.surrogate.resnet import ResNet

DIGITS = Path(__file__).parents[1] / "jobs" / "configs" / "digits.yaml"


@torch.no_grad()
def bare_loop(unet: UNet2DModel, scheduler: object, x: torch.Tensor, steps: int, **step: object) -> torch.Tensor:
    """The sampling loop of a diffusers user."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t).sample, t, x, **step).prev_sample
    return x.clamp(-1, 1)


def bare_guided_loop(unet, classifier, scheduler, x, steps, targets, scale):
    """The same loop with a minimal classifier guidance."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        z = x.detach().requires_grad_()
        log_p = (
            functional.log_softmax(classifier(z, t.to(z.device).expand(len(z))), dim=1)
            .gather(1, targets[:, None])
            .sum()
        )
        gradient = torch.autograd.grad(log_p, z)[0]
        with torch.no_grad():
            eps = unet(x, t).sample - (1 - scheduler.alphas_cumprod[t]) ** 0.5 * scale * gradient
            x = scheduler.step(eps, t, x, use_clipped_model_output=True).prev_sample
    return x


@torch.no_grad()
def networks(unet: UNet2DModel, x: torch.Tensor, steps: int) -> None:
    """Only the evaluations that a plain sampler needs."""
    for t in range(steps):
        unet(x, t)


def guided_networks(
    unet: UNet2DModel, classifier: nn.Module, x: torch.Tensor, steps: int, targets: torch.Tensor
) -> None:
    """Only the evaluations that a guided sampler needs: the U-Net, and the classifier with its gradient to the image."""
    for t in range(steps):
        networks(unet, x, 1)
        z = x.detach().requires_grad_()
        log_p = functional.log_softmax(classifier(z, torch.full((len(z),), t, device=z.device)), dim=1)
        torch.autograd.grad(log_p.gather(1, targets[:, None]).sum(), z)


def compare(name: str, ways: Mapping[str, Callable[[], object]], batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, of every round in turn; prints images per second, and how much faster the first is than the others."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - start)
    ours = seconds["side-ray"]
    rates = "  ".join(f"{way} {batch / statistics.median(each):9.1f}" for way, each in seconds.items())
    ratios = "  ".join(f"{faster(each, ours):.3f} of {way}" for way, each in seconds.items() if each is not ours)
    print(f"{name:<14}{rates}   {ratios}", flush=True)
    return seconds


def faster(others: list[float], ours: list[float]) -> float:
    """The median over the rounds of how many times as fast ours is."""
    return statistics.median(other / own for other, own in zip(others, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape, batch, steps, device = (1, options.side, options.side), options.batch, options.steps, options.device

    config = load_config(DIGITS)
    unet = new_unet(unet_section(config.dpm).model_dump(), shape).eval().requires_grad_(False)
    dpm = UnetDpm(unet, new_schedule()).to(device)
    schedule = dpm.schedule.config
    seeds = [sample_seed(0, "extract", i) for i in range(batch)]
    schedulers = {
        "ddim": (DDIMScheduler.from_config(schedule), {"use_clipped_model_output": True}),
        "ddpm": (DDPMScheduler.from_config(schedule), {}),
        "dpmsolver++": (None, {}),
        "unipc": (None, {}),
    }
    solvers = {"dpmsolver++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}

    def noise() -> torch.Tensor:
        return torch.randn(batch, *shape, device=device)

    for name in SAMPLERS.names:
        scheduler, step = schedulers[name]

        def ours(name: str = name) -> torch.Tensor:
            return sample(dpm, Noise(seeds, shape), SAMPLERS[name](steps))

        def bare(scheduler: object = scheduler, step: dict = step, name: str = name) -> torch.Tensor:
            # A multistep solver keeps a history, so each run needs a new one.
            solver = scheduler or solvers[name].from_config(schedule, timestep_spacing="leading")
            return bare_loop(unet, solver, noise(), steps, **step)

        ways = {"side-ray": ours, "diffusers": bare, "networks": lambda: networks(unet, noise(), steps)}
        compare(name, ways, batch, options.rounds)

    student = ResNet.from_section(
        config.surrogate, num_classes=config.surrogate.classes, in_channels=shape[0], time=True
    ).to(device)
    naive, student = deepcopy(student).eval(), student.fold()
    targets = torch.arange(batch, device=device) % config.surrogate.classes
    scale, scheduler = torch.full((batch,), 5.0, device=device), schedulers["ddim"][0]

    def guided() -> torch.Tensor:
        return sample(dpm, Noise(seeds, shape), Ddim(steps), guidance=ClassifierGuidance(student, targets, scale))

    ways = {
        "side-ray": guided,
        "diffusers": lambda: bare_guided_loop(unet, naive, scheduler, noise(), steps, targets, 5.0),
        "networks": lambda: guided_networks(unet, student, noise(), steps, targets),
        "plain": lambda: sample(dpm, Noise(seeds, shape), Ddim(steps)),
    }
    seconds = compare("ddim, guided", ways, batch, options.rounds)
    print(f"guidance on top: {100 * (1 / faster(seconds['plain'], seconds['side-ray']) - 1):.0f} %")


if __name__ == "__main__":
    main()
