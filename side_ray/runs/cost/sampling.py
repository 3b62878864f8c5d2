"""The cost of sampling: network evaluations, FLOPs, bytes, and which outputs exist already; and the lines of the plan."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from side_ray.config import Config
from side_ray.config.extract import BY_MODEL
from side_ray.diffusion.condition.drawn import Conditioning, evaluations, example
from side_ray.diffusion.denoisers import made_from_members
from side_ray.diffusion.denoisers.optimal import Optimal
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.dpm import Dpm, is_latent, latent_shape, load_dpm
from side_ray.diffusion.draw import DrawSettings, draw, sampler_of
from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.noise_process import new_schedule
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.processes import process_of
from side_ray.diffusion.sampler import decoded, denoised, sample_seed
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet
from side_ray.images import encode_png
from side_ray.report.wording import about
from side_ray.runs.artifacts import Artifacts, image_shape
from side_ray.runs.control import control_conditions
from side_ray.runs.cost.search import Pace, planned_search, search_lines
from side_ray.runs.plan import Condition, conditions, loss_images
from side_ray.runs.preflight import guided_steps, open_imported, schedule_of
from side_ray.statistics.evidence.privacy import DRAWS, TIMES
from side_ray.surrogate.lora import LoraNetwork, LoraSurrogate
from side_ray.surrogate.resnet import ResNet


@dataclass(frozen=True)
class Estimate:
    """Cost of sampling. `unet_flops`, `classifier_flops` and `decoder_flops` are the FLOPs of one evaluation of one image; those
    of the classifier include the backward pass to the image. The decoder is that of a latent model's VAE. A guided step of a
    LoRA surrogate, or of a base model, is one more evaluation of the U-Net."""

    samples: int
    unet_evaluations: int
    classifier_evaluations: int
    unet_flops: int
    classifier_flops: int
    bytes_written: int
    decoder_evaluations: int = 0
    decoder_flops: int = 0

    @property
    def flops(self) -> int:
        """FLOPs of all evaluations."""
        networks = (self.unet_evaluations, self.unet_flops), (self.classifier_evaluations, self.classifier_flops)
        return sum(count * each for count, each in (*networks, (self.decoder_evaluations, self.decoder_flops)))


def estimate(artifacts: Artifacts) -> Estimate:
    """The cost of sampling the synthetic set and all conditions."""
    config, shape = artifacts.config, image_shape(artifacts)
    per_sample = sampler_of(config.extract).evaluations
    many = conditions(config)
    guided = sum(each.scale > 0 and each.method not in BY_MODEL for each in many) * config.extract.samples
    samples = config.surrogate.synthetic + len(many) * config.extract.samples
    # The student sees what the model diffuses, OL-TI sees images: for latents, through the decoder.
    model = _victim(artifacts, shape) if config.dpm.kind == "import" else None
    seen = {each.method for each in many if each.scale > 0 and each.method not in BY_MODEL}
    decoder = {} if model is None or not is_latent(model) else _decoder(model, many, samples, artifacts)
    diffused = shape if model is None else latent_shape(model)
    classifiers = [_classifier_flops(config, diffused if each == "td" else shape) for each in sorted(seen)]
    return Estimate(
        samples=samples,
        unet_evaluations=samples * per_sample * evaluations(config.dpm, model)
        + config.extract.samples * _second_evaluations(artifacts),
        classifier_evaluations=guided * _guided_steps(artifacts) if guided else 0,
        unet_flops=_unet_flops(artifacts, shape, model),
        classifier_flops=sum(classifiers) // len(classifiers) if guided else 0,
        bytes_written=samples * _png_bytes(shape),
        **decoder,
    )


def sample_flops(artifacts: Artifacts, guided: bool) -> int:
    """FLOPs of one sample of a model that is trained or made here, and if it is guided of the classifier with its gradient at
    every guided step."""
    config, shape = artifacts.config, image_shape(artifacts)
    unet = _unet_flops(artifacts, shape, None)
    unguided = sampler_of(config.extract).evaluations * unet
    if guided and config.surrogate.kind == "lora":
        return unguided + _guided_steps(artifacts, "lora") * unet
    return unguided + (_guided_steps(artifacts) * _classifier_flops(config, shape) if guided else 0)


def unit_flops(artifacts: Artifacts) -> dict[str, tuple[float, float]]:
    """FLOPs of the model and of a classifier that one unit of each stage of `status.planned` takes, for the stages that compute.

    The weights of an imported model are not read for this: its FLOPs stand at `IMPORTED` times those of the classifier, which
    is wrong by a factor that a measured rate makes up for.
    """
    config, shape = artifacts.config, image_shape(artifacts)
    classifier = _classifier_flops(config, shape)
    known = config.dpm.kind != "import"
    model = _unet_flops(artifacts, shape, None) if known else IMPORTED * classifier
    many, section = conditions(config), config.surrogate
    sample = float(sampler_of(config.extract).evaluations * config.dpm.evaluations * model)
    guided = sum(each.scale > 0 and each.method not in BY_MODEL for each in many) / len(many)
    guiding = guided * _guided_steps(artifacts) * classifier if guided else 0.0
    extracted = sample + _second_evaluations(artifacts) / len(many) * model
    trained = TRAINING * float(config.dpm.batch_size * model) if config.dpm.kind == "train" else 0.0
    # A classifier's FLOPs count its gradient to the image, so that training it takes half as many again.
    student = (0.0, 1.5 * section.batch_size * classifier)
    return {
        "train_dpm": (trained, 0.0),
        "synthetic": (sample, 0.0),
        "train_surrogate: student": student,
        "train_surrogate: lora": (TRAINING * float(section.batch_size * model), 0.0),
        "train_surrogate: ol_ti": student,
        "extract": (extracted, guiding),
        "privacy": (float(len(TIMES) * DRAWS * model), 0.0),
        "control: train_dpm": (trained, 0.0),
        "control: extract": (sample, guiding),
    }


IMPORTED = 2.5
TRAINING = 3
"""FLOPs of a training step per image, in evaluations: forward, and backward to the weights and through the layers."""
THROUGH_DECODER = 4
"""Decodings that an evaluation of OL-TI costs in a latent model: one for what it sees, and one with a backward pass."""


def _decoder(model: Dpm, many: Sequence[Condition], samples: int, artifacts: Artifacts) -> dict[str, int]:
    """`decoder_evaluations` and `decoder_flops` of a latent model."""
    seen = sum(each.method == "ti" for each in many) * artifacts.config.extract.samples
    through = seen * _guided_steps(artifacts) * THROUGH_DECODER if seen else 0
    with FlopCounterMode(display=False) as counter:
        decoded(model, torch.zeros(1, *latent_shape(model)))
    return {"decoder_evaluations": samples + through, "decoder_flops": counter.get_total_flops()}


def _second_evaluations(artifacts: Artifacts) -> int:
    """Evaluations of a LoRA surrogate and of a base model, for one sample of each condition."""
    methods = [each.method for each in conditions(artifacts.config) if each.method in BY_MODEL]
    return sum(methods.count(each) * _guided_steps(artifacts, each) for each in set(methods))


def _guided_steps(artifacts: Artifacts, method: str = "td") -> int:
    return guided_steps(artifacts.config.extract, schedule_of(artifacts), method)


def plan_lines(
    artifacts: Artifacts,
    throughput: float | None = None,
    obstacle: str = "",
    seconds: Mapping[str, float] | None = None,
    pace: Pace | None = None,
) -> list[str]:
    """The plan as lines of text: what would run, what exists already, and the cost.

    Args:
        throughput: samples per second of one device; None = print no device-hours.
        obstacle: why the audit cannot start yet; existing outputs are then not listed.
        seconds: how long each stage takes on one device, by its name; None = print no time and no price.
        pace: of comparisons on this machine; None = it is assumed.

    Raises:
        UserError: see `image_shape`.
    """
    config = artifacts.config
    if config.given:
        lines = {
            "run directory": artifacts.run.store.uri,
            "samples": f"{config.extract.samples:,} of {config.given.samples}",
            "compared with": f"{config.data.members:,} members, 2 × {config.data.holdout:,} unseen, by {config.score.similarity}",
        }
        lines |= search_lines(artifacts, pace)
        return _printed(lines | _price(config, seconds) | ({"not ready": obstacle} if obstacle else {}))
    cost, many = estimate(artifacts), conditions(config)
    shards = f"{len(many) * artifacts.sample_shards:,}"
    if not obstacle:
        missing = sum(len(artifacts.samples(each).missing(artifacts.sample_shards)) for each in many)
        shards = (
            f"{len(many) * artifacts.sample_shards - missing:,} of {shards} exist already (without the synthetic set)"
        )

    def state(stage: str) -> str:
        return "" if obstacle else "[done]" if getattr(artifacts, stage).done else "[to do]"

    made = made_from_members(config.dpm)
    victim = made.title if made else f"train for {config.dpm.steps:,} steps" if config.dpm.kind == "train" else "import"
    student = f"{config.surrogate.labels} labels, {config.surrogate.steps:,} steps"
    student += f" of LoRA of rank {config.surrogate.rank}" if config.surrogate.kind == "lora" else ""
    names = ", ".join(f"{each.method} λ={each.scale:g}" for each in many)
    total = f"{len(many)} × {config.extract.samples:,} + {config.surrogate.synthetic:,} synthetic = {cost.samples:,}"
    lines = {
        "run directory": artifacts.run.store.uri,
        "prepare": f"{config.data.members:,} members, 2 × {config.data.holdout:,} unseen {state('prepare')}",
        "dpm": f"{victim} {state('dpm')}",
        **({} if config.dpm.base is None else {"base": f"import {config.dpm.base} {state('base')}"}),
        "surrogate": f"{student} {state('surrogate')}",
        "conditions": f"{len(many)}: {names}",
        "samples": total,
        "shards": shards,
        "U-Net": f"{cost.unet_evaluations:,} evaluations × {_si(cost.unet_flops)}FLOP",
        "classifier": f"{cost.classifier_evaluations:,} evaluations with gradient × {_si(cost.classifier_flops)}FLOP",
        "decoder": f"{cost.decoder_evaluations:,} evaluations × {_si(cost.decoder_flops)}FLOP",
        "sampling": f"{_si(cost.flops)}FLOP",
        "images": f"at most about {_si(cost.bytes_written)}B (the size of incompressible images)",
    }
    if images := loss_images(config):
        more = images * len(TIMES) * DRAWS
        lines["privacy"] = (
            f"not counted above: {more:,} evaluations, the losses of {images:,} members and unseen images"
        )
    if not cost.decoder_evaluations:
        del lines["decoder"]
    if config.control:
        more = len(control_conditions(config)) * config.extract.samples
        lines["control"] = f"not counted above: training a second DPM and {more:,} samples of it"
    if throughput is not None:
        hours = cost.samples / throughput / 3600
        lines["device-hours"] = f"{hours:,.2f} of sampling at {throughput:,.1f} samples/s per device"
    lines |= search_lines(artifacts, pace)
    lines |= _price(config, seconds)
    if obstacle:
        lines["not ready"] = obstacle
    return _printed(lines)


def _printed(lines: Mapping[str, str]) -> list[str]:
    return [f"{name:14}{text.rstrip()}" for name, text in lines.items()]


def _price(config: Config, seconds: Mapping[str, float] | None) -> dict[str, str]:
    """The lines `time` and `price`; without a rate only how to get them."""
    if seconds is None:
        return {"time": "unknown: --probe measures it on this machine, --throughput takes what you know"}
    whole, price = sum(seconds.values()), config.cluster.price_per_hour
    longest = sorted(seconds.items(), key=lambda each: -each[1])[:3]
    parts = ", ".join(f"{name} {about(value)}" for name, value in longest)
    lines = {"time": f"about {about(whole)} on one device ({parts})" if seconds else "nothing is left to do"}
    if price is not None:
        lines["price"] = f"about {whole / 3600 * price:,.2f}, at {price:g} per device and hour"
    return lines


def plan_json(
    artifacts: Artifacts,
    throughput: float | None = None,
    obstacle: str = "",
    seconds: Mapping[str, float] | None = None,
    pace: Pace | None = None,
) -> dict[str, Any]:
    """The numbers of `plan_lines`: `conditions`, those of `Estimate` (not of given samples), `flops`, `device_hours` and
    `seconds` by stage (None = unknown), `search` by similarity (`SearchPlan.to_json`), `price` and `obstacle`."""
    config, price = artifacts.config, artifacts.config.cluster.price_per_hour
    numbers: dict[str, Any] = {"run": artifacts.run.store.uri, "conditions": len(conditions(config))}
    if config.given:
        numbers |= {"samples": config.extract.samples}
    else:
        cost = estimate(artifacts)
        hours = None if throughput is None else cost.samples / throughput / 3600
        numbers |= {**asdict(cost), "flops": cost.flops, "device_hours": hours}
    paid = None if price is None or seconds is None else sum(seconds.values()) / 3600 * price
    text = plan_lines(artifacts, throughput, obstacle, seconds, pace)
    memory = config.cluster.memory_gb
    numbers["search"] = {name: planned_search(each).to_json(memory) for name, each in artifacts.every.items()}
    return numbers | {"seconds": seconds, "price": paid, "obstacle": obstacle, "text": text}


def probe(artifacts: Artifacts) -> float:
    """Samples per second of this machine's device, from one guided batch with the settings of the config, after a warm-up batch.

    If a model does not exist yet, random weights take its place: the speed does not depend on them.
    """
    config, shape = artifacts.config, image_shape(artifacts)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dpm = _victim(artifacts, shape).to(device)
    diffused = latent_shape(dpm)
    settings = DrawSettings.of(config.extract, config.cluster.precision, Conditioning.like(config.dpm))
    latents = LatentStatistics.standard(diffused[0]) if is_latent(dpm) else None
    surrogate: ClassifierSurrogate | LoraSurrogate
    if config.surrogate.kind == "lora":
        network = LoraNetwork(dpm, config.surrogate.classes, config.surrogate.rank)
        surrogate = LoraSurrogate(network.requires_grad_(False), 1.0, latents)
    else:
        surrogate = ClassifierSurrogate(_student(config, diffused).to(device), config.surrogate.classes, 1.0, latents)
    seeds = [sample_seed(config.run.seed, "probe", i) for i in range(settings.batch_size)]
    size, seconds = settings.batch_size, 0.0
    for _ in range(2):
        began = time.perf_counter()
        drawn = draw(dpm, seeds[:size], settings, surrogate, batch_size=size)
        size, seconds, count = drawn.batch_size, time.perf_counter() - began, len(drawn.images)
    return count / seconds


def _victim(artifacts: Artifacts, shape: tuple[int, int, int]) -> Dpm:
    config = artifacts.config
    if config.dpm.kind == "import":
        with open_imported(artifacts) as model:
            return model
    if artifacts.dpm.done:
        return load_dpm(artifacts.dpm.fetch())
    if made := made_from_members(config.dpm):
        return made.make(torch.zeros(config.data.members, *shape), config.dpm)
    schedule = new_schedule(config.dpm.schedule, config.dpm.timesteps, config.dpm.prediction)
    return UnetDpm(new_unet(unet_section(config.dpm).model_dump(), shape).eval(), schedule)


def _student(config: Config, shape: tuple[int, int, int]) -> ResNet:
    """An untrained student: its speed does not depend on the weights."""
    classes = config.surrogate.classes
    student = ResNet.from_section(config.surrogate, num_classes=classes, in_channels=shape[0], time=True)
    return student.eval().requires_grad_(False)


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


def _unet_flops(artifacts: Artifacts, shape: tuple[int, int, int], dpm: Dpm | None) -> int:
    config = artifacts.config
    if made := made_from_members(config.dpm):
        return made.flops(config.data.members, shape)
    if config.dpm.kind == "train":
        with torch.device("meta"):
            unet = new_unet(unet_section(config.dpm).model_dump(), shape).eval()
    else:
        assert dpm is not None
        if isinstance(dpm, OptimalDpm):
            return Optimal.flops(len(dpm.images), dpm.latent_shape)
        if not isinstance(dpm, UnetDpm):
            return _flops_of(dpm)
        unet, shape = dpm.unet, dpm.latent_shape
    with torch.no_grad():
        zero = torch.zeros(1, dtype=torch.int64)
        conditional = unet.config["num_class_embeds"] is not None
        return _count(unet, torch.zeros(1, *shape), zero, *([zero] if conditional else []))


def _flops_of(dpm: Dpm) -> int:
    """FLOPs of one evaluation of any model, counted as it runs."""
    counter, condition = FlopCounterMode(display=False), example(dpm)
    with counter:
        denoised(dpm, torch.zeros(1, *latent_shape(dpm)), 0, process_of(dpm.schedule).level(0), condition)
    return counter.get_total_flops()


def _classifier_flops(config: Config, shape: tuple[int, int, int]) -> int:
    with torch.device("meta"):
        student = _student(config, shape)
    return _count(
        student,
        torch.zeros(1, *shape, requires_grad=True),
        torch.zeros(1, dtype=torch.int64),
        backward=True,
    )


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
