"""What an audit consists of, told from its config alone: its conditions, and a description for the terminal."""

from dataclasses import dataclass
from typing import Literal

from side_ray.config import Config, Method


@dataclass(frozen=True, order=True)
class Condition:
    """One way of sampling: a method and its guidance scale λ. Samples that are given are a method of their own."""

    method: Method | Literal["given"]
    scale: float

    @property
    def name(self) -> str:
        return f"method={self.method}/lambda={self.scale}"


def conditions(config: Config) -> list[Condition]:
    """Every condition of the audit: Random first, then OL-TI and SIDE by ascending λ; or the given samples alone."""
    if config.given:
        return [Condition("given", 0.0)]
    methods: list[Method] = [method for method in ("random", "ti", "td") if method in config.extract.methods]
    return [Condition(method, scale) for method in methods for scale in config.extract.scales_of(method)]


def describe(config: Config) -> str:
    """What an audit will do, in one sentence for the terminal."""
    many, samples = conditions(config), config.extract.samples
    if config.given:
        unseen = f" and 2 × {config.data.holdout:,} unseen images" if config.data.holdout else ""
        return (
            f"audit: score {samples:,} images of {config.given.samples} against {config.data.members:,} training images"
            f"{unseen} by {config.score.similarity}; report"
        )
    victim = {
        "train": f"train a DPM for {config.dpm.steps:,} steps on {config.data.members:,} images",
        "import": f"import {config.dpm.path}",
    }.get(config.dpm.kind, f"use the closed-form DPM of {config.data.members:,} images")
    beside = "; repeat it with a DPM of other images" if config.control else ""
    return (
        f"audit: {victim}; sample {config.surrogate.synthetic:,} synthetic images; distil a "
        f"{config.surrogate.arch} student in {config.surrogate.steps:,} steps; sample {len(many)} conditions × "
        f"{samples:,} = {len(many) * samples:,} images with {config.extract.sampler}-{config.extract.steps}; "
        f"score by {config.score.similarity}{beside}; report"
    )
