"""Images per second of side-ray's sampler and of a bare diffusers loop with the same U-Net, batch and steps.

    python bench/sample.py [--side 8] [--batch 250] [--steps 10] [--rounds 5] [--threads 1] [--device cpu]

The two alternate, so that a busy machine slows both. The ratio is the median over the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from torch import nn
from torch.nn import functional

from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.sampler import Noise, sample, sample_seed
from side_ray.diffusion.samplers import SAMPLERS
from side_ray.diffusion.samplers.ddim import Ddim
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet


class Classifier(nn.Module):
    """Replacement for the surrogate: three convolutions that cost about as much as the digits student."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (32, 32, 64):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.out = nn.Linear(channels, 100)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.out(self.features(x).mean(dim=(2, 3)))


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


def compare(name: str, ours: Callable[[], object], bare: Callable[[], object], batch: int, rounds: int) -> None:
    ours(), bare()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, times in ((ours, seconds[0]), (bare, seconds[1])):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    ratio = statistics.median(b / o for o, b in zip(*seconds, strict=True))
    rates = [batch / statistics.median(times) for times in seconds]
    print(f"{name:<16} side-ray {rates[0]:9.1f} images/s   bare {rates[1]:9.1f} images/s   side-ray/bare {ratio:.3f}")


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

    unet = new_unet({"block_out_channels": (32, 64), "layers_per_block": 2, "norm_num_groups": 8}, shape)
    dpm = UnetDpm(unet.eval(), new_schedule()).to(device)
    config = dpm.schedule.config
    seeds = [sample_seed(0, "extract", i) for i in range(batch)]
    schedulers = {
        "ddim": (DDIMScheduler.from_config(config), {"use_clipped_model_output": True}),
        "ddpm": (DDPMScheduler.from_config(config), {}),
        "dpmsolver++": (None, {}),
    }
    for name in SAMPLERS.names:
        scheduler, step = schedulers[name]

        def ours(name: str = name) -> torch.Tensor:
            return sample(dpm, Noise(seeds, shape), SAMPLERS[name](steps))

        def bare(scheduler: object = scheduler, step: dict = step) -> torch.Tensor:
            # A multistep solver keeps a history, so each run needs a new one.
            solver = scheduler or DPMSolverMultistepScheduler.from_config(config, timestep_spacing="leading")
            return bare_loop(unet, solver, torch.randn(batch, *shape, device=device), steps, **step)

        compare(name, ours, bare, batch, options.rounds)

    classifier = Classifier(shape[0]).to(device).eval()
    targets, scale = torch.arange(batch, device=device) % 100, torch.full((batch,), 5.0, device=device)
    ddim = schedulers["ddim"][0]
    compare(
        "ddim, guided",
        lambda: sample(
            dpm,
            Noise(seeds, shape),
            Ddim(steps),
            guidance=ClassifierGuidance(classifier, targets, scale),
        ),
        lambda: bare_guided_loop(
            unet, classifier, ddim, torch.randn(batch, *shape, device=device), steps, targets, 5.0
        ),
        batch,
        options.rounds,
    )


if __name__ == "__main__":
    main()
