"""What an audit consists of: its conditions."""

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
