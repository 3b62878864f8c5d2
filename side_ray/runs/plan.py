"""The conditions of an audit and a one-sentence description of it, from its config alone."""

from dataclasses import dataclass
from typing import Literal

from side_ray.config import Config, Method
from side_ray.diffusion.denoisers import made_from_members
from side_ray.runs.run import condition_name


@dataclass(frozen=True, order=True)
class Condition:
    """One way of sampling: a method and its guidance scale λ. SIDE by a LoRA surrogate is `lora`, extrapolation from a base
    model is `base`; given samples are `given`."""

    method: Method | Literal["lora", "base", "given"]
    scale: float

    @property
    def name(self) -> str:
        """`method=…/lambda=…`, as in the paths of the run directory."""
        return condition_name(self.method, self.scale)


def conditions(config: Config) -> list[Condition]:
    """All conditions of the audit: Random, then OL-TI, SIDE and extrapolation from a base model, each by ascending λ; or only the
    given samples."""
    if config.given:
        return [Condition("given", 0.0)]
    methods: list[Method] = [method for method in ("random", "ti", "td") if method in config.extract.methods]
    found = [
        Condition("lora" if method == "td" and config.surrogate.kind == "lora" else method, scale)
        for method in methods
        for scale in config.extract.scales_of(method)
    ]
    extrapolated = [] if config.dpm.base is None else config.extract.scales_of("base")
    return found + [Condition("base", scale) for scale in extrapolated]


def no_losses(config: Config) -> str | None:
    """Why an audit compares no denoising losses, a key of `results.privacy.WHY`; None where it does, given enough images."""
    if not config.privacy.pairs:
        return "off"
    if config.given:
        return "given"
    if config.dpm.condition != "none":
        return "conditional"
    drawn = config.dpm.kind != "import" and config.data.holdout_path is None
    return None if drawn or config.privacy.canaries is not None else "not_random"


def loss_images(config: Config) -> int:
    """The most images whose denoising loss an audit computes; 0 where it compares none."""
    most = config.privacy.pairs
    return 0 if no_losses(config) else min(most, config.data.members) + min(most, 2 * config.data.holdout)


def describe(config: Config) -> str:
    """One sentence for the terminal about what the audit does."""
    from side_ray.diffusion.draw import sampler_of  # torch takes seconds to import

    many, samples = conditions(config), config.extract.samples
    if config.given:
        unseen = f" and 2 × {config.data.holdout:,} unseen images" if config.data.holdout else ""
        return (
            f"audit: score {samples:,} images of {config.given.samples} against {config.data.members:,} training images"
            f"{unseen} by {config.score.similarity}; report"
        )
    made = made_from_members(config.dpm)
    if made:
        victim = f"use the {made.title} DPM of {config.data.members:,} images"
    elif config.dpm.kind == "import":
        victim = f"import {config.dpm.path}" + (f" and its base {config.dpm.base}" if config.dpm.base else "")
    else:
        victim = f"train a DPM for {config.dpm.steps:,} steps on {config.data.members:,} images"
    surrogate = f"distil a {config.surrogate.arch} student"
    if config.surrogate.kind == "lora":
        surrogate = "fine-tune it by LoRA on them"
    beside = "; repeat it with a DPM of other images" if config.control else ""
    return (
        f"audit: {victim}; sample {config.surrogate.synthetic:,} synthetic images; "
        f"{surrogate} in {config.surrogate.steps:,} steps; sample {len(many)} conditions × "
        f"{samples:,} = {len(many) * samples:,} images with {sampler_of(config.extract)}; "
        f"score by {config.score.similarity}{beside}; report"
    )
