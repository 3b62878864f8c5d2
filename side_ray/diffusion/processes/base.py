"""What a noise process is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

Pair = tuple[Any, Any]


class NoiseProcess(ABC):
    """z_t = α_t·z_0 + σ_t·ε at times t from 0 (image) to T−1 (noise), whole or fractional.

    Attributes:
        config: `num_train_timesteps` (T), `clip_sample` and the like, as of a diffusers scheduler.
    """

    config: Mapping[str, Any]
    guided_from: float = 0.01
    """A classifier guides only where α_t is at least this: its shift of ẑ₀, λσ²/α·∇log p, diverges as α goes to 0."""

    @property
    def timesteps(self) -> int:
        """T."""
        return int(self.config["num_train_timesteps"])

    @abstractmethod
    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t, float64 [B] on the device of t int64 or float64 [B]."""

    def level(self, t: float) -> tuple[float, float]:
        """α_t and σ_t at one time."""
        signal, sigma = self.levels(torch.tensor([t], dtype=torch.float64))
        return float(signal), float(sigma)

    @abstractmethod
    def visited(self, steps: int) -> list[float]:
        """The times that the library's own Euler sampler of this process visits in so many steps, from noise to image."""

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        """z at the first visited time, of standard normal noise float32 [B, C, H, W]."""
        return noise

    def enter(self, z_t: torch.Tensor, t: float, sigma: float) -> tuple[torch.Tensor, float]:
        """What the network is given at the time t, with its σ: its input of z_t, and the number that tells it the noise level."""
        return z_t, sigma

    @abstractmethod
    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(ẑ₀, ε̂) of the network's output, each of the shape of z_t [B, C, H, W]."""

    def guided(
        self, z_t: torch.Tensor, z0: torch.Tensor, eps: torch.Tensor, term: torch.Tensor, level: Pair
    ) -> torch.Tensor:
        """ẑ₀ with λ·∇log p_t(y|z_t) = `term` added to the score: ẑ₀ + σ²/α·term."""
        signal, sigma = level
        return z0 + (sigma**2 / signal) * term

    def seen(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """c, the factor float32 [B, 1, 1, 1] by which a classifier's input is z_t: 1/√(α² + σ²), for unit variance."""
        signal, sigma = self.levels(t)
        return (signal**2 + sigma**2).rsqrt().to(z_t).view(-1, 1, 1, 1)

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write the `scheduler_config.json` that it is made of."""
