"""What an audit costs, told before anything starts: counted evaluations and FLOPs, bytes, and what is there already."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from side_ray.config import Config
from side_ray.datasets import load_source
from side_ray.diffusion.dpm import load_dpm, new_unet
from side_ray.diffusion.sampler import unet_evaluations
from side_ray.images import encode_png
from side_ray.stages.plan import Artifacts, conditions
from side_ray.stages.train_surrogate import network


@dataclass(frozen=True)
class Estimate:
    """Costs of sampling. `unet_flops` and `classifier_flops` are FLOPs of one evaluation on one image; a classifier's
    includes its backward pass to the image."""

    samples: int
    unet_evaluations: int
    classifier_evaluations: int
    unet_flops: int
    classifier_flops: int
    bytes_written: int

    @property
    def flops(self) -> int:
        return self.unet_evaluations * self.unet_flops + self.classifier_evaluations * self.classifier_flops


def estimate(config: Config, artifacts: Artifacts) -> Estimate:
    """Count what the synthetic set and all conditions take."""
    shape = image_shape(config, artifacts)
    per_sample = unet_evaluations(config.extract.sampler, config.extract.steps)
    many = conditions(config)
    guided = sum(condition.scale > 0 for condition in many) * config.extract.samples
    samples = config.surrogate.synthetic + len(many) * config.extract.samples
    return Estimate(
        samples=samples,
        unet_evaluations=samples * per_sample,
        classifier_evaluations=guided * per_sample,
        unet_flops=_unet_flops(config, artifacts, shape),
        classifier_flops=_classifier_flops(config, shape) if guided else 0,
        bytes_written=samples * _png_bytes(shape),
    )


def image_shape(config: Config, artifacts: Artifacts) -> tuple[int, int, int]:
    """(C, H, W) of the images, from the prepared data set or else its source."""
    if artifacts.prepare.done:
        height, width, channels = artifacts.prepare.info()["shape"]
    else:
        height, width, channels = load_source(config.data).images.shape[1:]
    return channels, height, width


def plan_lines(config: Config, artifacts: Artifacts) -> list[str]:
    """The plan for a terminal: what would run, what of it is there, and what sampling takes."""
    cost, many = estimate(config, artifacts), conditions(config)
    per_condition = config.extract.samples // config.extract.shard_size
    found = sum(per_condition - len(artifacts.samples(each).missing(per_condition)) for each in many)
    victim = {"train": f"train for {config.dpm.steps:,} steps", "import": "import", "optimal": "closed form"}[
        config.dpm.kind
    ]
    return [
        f"run directory      {artifacts.run.store.uri}",
        f"prepare            {config.data.members:,} members, 2 × {config.data.holdout:,} unseen  {_state(artifacts.prepare.done)}",
        f"dpm                {victim}  {_state(artifacts.dpm.done)}",
        f"surrogate          {config.surrogate.labels} labels, {config.surrogate.steps:,} steps  {_state(artifacts.surrogate.done)}",
        f"conditions         {len(many)}: {', '.join(f'{each.method} λ={each.scale:g}' for each in many)}",
        f"samples            {len(many)} × {config.extract.samples:,} + {config.surrogate.synthetic:,} synthetic = {cost.samples:,}",
        f"shards             {found:,} of {len(many) * per_condition:,} are there (synthetic apart)",
        f"U-Net evaluations  {cost.unet_evaluations:,} × {_si(cost.unet_flops)}FLOP",
        f"classifier         {cost.classifier_evaluations:,} evaluations with gradient × {_si(cost.classifier_flops)}FLOP",
        f"sampling takes     {_si(cost.flops)}FLOP",
        f"bytes written      about {_si(cost.bytes_written)}B of images (an incompressible image's size: an upper bound)",
    ]


def _state(done: bool) -> str:
    return "[there]" if done else "[to do]"


def _count(module: torch.nn.Module, *inputs: Any, backward: bool = False) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        output = module(*inputs)
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


def _unet_flops(config: Config, artifacts: Artifacts, shape: tuple[int, int, int]) -> int:
    if config.dpm.kind == "optimal":
        return 4 * config.data.members * int(np.prod(shape))
    if config.dpm.kind == "import":
        unet = load_dpm(_imported(config, artifacts)).unet  # type: ignore[attr-defined]
    else:
        unet = new_unet(config.dpm.unet.model_dump(), shape).eval()
    with torch.no_grad():
        return _count(unet, torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64))


def _imported(config: Config, artifacts: Artifacts) -> Any:
    if artifacts.dpm.done:
        return artifacts.run.store.fetch_dir(artifacts.dpm.key)
    from side_ray.storage import open_store

    assert config.dpm.path is not None
    return open_store(config.dpm.path, endpoint=config.storage.endpoint, region=config.storage.region).fetch_dir("")


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
