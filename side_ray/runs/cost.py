"""The cost of an audit before it starts: network evaluations, FLOPs, bytes, and which outputs exist already."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from side_ray.config import Config
from side_ray.diffusion.dpm import Dpm, UnetDpm, load_dpm, new_unet
from side_ray.diffusion.guidance import ClassifierGuidance
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.sampler import Noise, sample, unet_evaluations, visited_timesteps
from side_ray.errors import UserError
from side_ray.images import encode_png, to_uint8
from side_ray.runs.artifacts import Artifacts, image_shape
from side_ray.runs.control import control_conditions
from side_ray.runs.plan import conditions
from side_ray.runs.preflight import fetch_import
from side_ray.surrogate.resnet import network


@dataclass(frozen=True)
class Estimate:
    """Cost of sampling. `unet_flops` and `classifier_flops` are the FLOPs of one evaluation of one image; those of the
    classifier include the backward pass to the image."""

    samples: int
    unet_evaluations: int
    classifier_evaluations: int
    unet_flops: int
    classifier_flops: int
    bytes_written: int

    @property
    def flops(self) -> int:
        """FLOPs of all evaluations."""
        return self.unet_evaluations * self.unet_flops + self.classifier_evaluations * self.classifier_flops


def estimate(artifacts: Artifacts) -> Estimate:
    """The cost of sampling the synthetic set and all conditions."""
    config, shape = artifacts.config, image_shape(artifacts)
    per_sample = unet_evaluations(config.extract.sampler, config.extract.steps)
    many = conditions(config)
    guided = sum(condition.scale > 0 for condition in many) * config.extract.samples
    samples = config.surrogate.synthetic + len(many) * config.extract.samples
    return Estimate(
        samples=samples,
        unet_evaluations=samples * per_sample,
        classifier_evaluations=guided * _guided_steps(config),
        unet_flops=_unet_flops(artifacts, shape),
        classifier_flops=_classifier_flops(config, shape) if guided else 0,
        bytes_written=samples * _png_bytes(shape),
    )


def _guided_steps(config: Config) -> int:
    """Number of visited timesteps within the guidance interval."""
    schedule = new_schedule(config.dpm.schedule, config.dpm.timesteps)
    start, end = (edge * config.dpm.timesteps for edge in config.extract.guidance_interval)
    visited = visited_timesteps(schedule, config.extract.sampler, config.extract.steps)
    return sum(start <= timestep < end for timestep in visited)


def plan_lines(artifacts: Artifacts, throughput: float | None = None, obstacle: str = "") -> list[str]:
    """The plan as lines of text: what would run, what exists already, and the cost of sampling.

    Args:
        throughput: samples per second of one device; None = print no device-hours.
        obstacle: why the audit cannot start yet; existing outputs are then not listed.

    Raises:
        UserError: samples are given, so nothing is sampled. See also `image_shape`.
    """
    config = artifacts.config
    if config.given:
        raise UserError("given.samples: a plan estimates the cost of sampling, but the samples of this audit are given")
    cost, many = estimate(artifacts), conditions(config)
    shards = f"{len(many) * artifacts.sample_shards:,}"
    if not obstacle:
        missing = sum(len(artifacts.samples(each).missing(artifacts.sample_shards)) for each in many)
        shards = (
            f"{len(many) * artifacts.sample_shards - missing:,} of {shards} exist already (without the synthetic set)"
        )

    def state(stage: str) -> str:
        return "" if obstacle else "[done]" if getattr(artifacts, stage).done else "[to do]"

    victims = {"train": f"train for {config.dpm.steps:,} steps", "import": "import", "optimal": "closed form"}
    victim = victims[config.dpm.kind]
    student = f"{config.surrogate.labels} labels, {config.surrogate.steps:,} steps"
    names = ", ".join(f"{each.method} λ={each.scale:g}" for each in many)
    total = f"{len(many)} × {config.extract.samples:,} + {config.surrogate.synthetic:,} synthetic = {cost.samples:,}"
    lines = {
        "run directory": artifacts.run.store.uri,
        "prepare": f"{config.data.members:,} members, 2 × {config.data.holdout:,} unseen {state('prepare')}",
        "dpm": f"{victim} {state('dpm')}",
        "surrogate": f"{student} {state('surrogate')}",
        "conditions": f"{len(many)}: {names}",
        "samples": total,
        "shards": shards,
        "U-Net": f"{cost.unet_evaluations:,} evaluations × {_si(cost.unet_flops)}FLOP",
        "classifier": f"{cost.classifier_evaluations:,} evaluations with gradient × {_si(cost.classifier_flops)}FLOP",
        "sampling": f"{_si(cost.flops)}FLOP",
        "images": f"at most about {_si(cost.bytes_written)}B (the size of incompressible images)",
    }
    if config.control:
        more = len(control_conditions(config)) * config.extract.samples
        lines["control"] = f"not counted above: training a second DPM and {more:,} samples of it"
    if throughput is not None:
        hours = cost.samples / throughput / 3600
        lines["device-hours"] = f"{hours:,.2f} of sampling at {throughput:,.1f} samples/s per device"
    if obstacle:
        lines["not ready"] = obstacle
    return [f"{name:14}{text.rstrip()}" for name, text in lines.items()]


def probe(artifacts: Artifacts) -> float:
    """Samples per second of this machine's device, from one guided batch with the settings of the config, after a warm-up batch.

    If a model does not exist yet, random weights take its place: the speed does not depend on them.
    """
    config, shape = artifacts.config, image_shape(artifacts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dpm = _victim(artifacts, shape).to(device)
    classifier = network(config.surrogate, shape[0], config.surrogate.classes, time=True).to(device).eval()
    settings, size = config.extract, config.extract.batch_size
    targets, scale = torch.zeros(size, dtype=torch.int64, device=device), torch.ones(size, device=device)
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        guidance = ClassifierGuidance(classifier, targets, scale)
        noise = Noise(range(size), shape)
        to_uint8(
            sample(
                dpm,
                noise,
                sampler=settings.sampler,
                steps=settings.steps,
                eta=settings.eta,
                guidance=guidance,
                class_labels=None if dpm.num_classes is None else targets,
            )
        )
        seconds = time.perf_counter() - began
    return size / seconds


def _victim(artifacts: Artifacts, shape: tuple[int, int, int]) -> Dpm:
    config = artifacts.config
    if artifacts.dpm.done:
        return load_dpm(artifacts.run.store.fetch_dir(artifacts.dpm.key))
    if config.dpm.kind == "import":
        return load_dpm(fetch_import(config, shape))
    schedule = new_schedule(config.dpm.schedule, config.dpm.timesteps, config.dpm.prediction)
    if config.dpm.kind == "optimal":
        return OptimalDpm(torch.zeros(config.data.members, *shape), schedule)
    return UnetDpm(new_unet(config.dpm.unet.model_dump(), shape).eval(), schedule)


def _count(module: torch.nn.Module, *inputs: torch.Tensor, backward: bool = False) -> int:
    """FLOPs of one call, counted on meta tensors."""
    counter = FlopCounterMode(display=False)
    with counter:
        output = module.to("meta")(
            *(torch.empty_like(each, device="meta", requires_grad=each.requires_grad) for each in inputs)
        )
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


def _unet_flops(artifacts: Artifacts, shape: tuple[int, int, int]) -> int:
    config = artifacts.config
    if config.dpm.kind == "optimal":
        # Two matrix products with all members: one for the distances, one for the weighted mean.
        return 4 * config.data.members * int(np.prod(shape))
    if config.dpm.kind == "train":
        unet = new_unet(config.dpm.unet.model_dump(), shape).eval()
    else:
        dpm = _victim(artifacts, shape)
        assert isinstance(dpm, UnetDpm)
        unet = dpm.unet
    with torch.no_grad():
        zero = torch.zeros(1, dtype=torch.int64)
        conditional = unet.config["num_class_embeds"] is not None
        return _count(unet, torch.zeros(1, *shape), zero, *([zero] if conditional else []))


def _classifier_flops(config: Config, shape: tuple[int, int, int]) -> int:
    module = network(config.surrogate, shape[0], config.surrogate.classes, time=True).eval().requires_grad_(False)
    return _count(module, torch.zeros(1, *shape, requires_grad=True), torch.zeros(1, dtype=torch.int64), backward=True)


def _png_bytes(shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return len(encode_png(noise))


def _si(value: float) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000:
            return f"{value:,.3g} {prefix}"
        value /= 1000
    return f"{value:,.3g} E"
