"""A noise process given as a table of α and σ."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from side_ray.diffusion.processes.base import NoiseProcess
from side_ray.errors import UserError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow", "score"]
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow", "score")


class Table(NoiseProcess):
    """z_t = α_t·z_0 + σ_t·ε at T levels, from the image (t = 0) to the noise (t = T−1).

    Args:
        alphas, sigmas: [T], with σ increasing.
        predicts: what the network outputs: ε, v = α·ε − σ·z₀, z₀ (`sample`), ε − z₀ (`flow`) or the score −ε/σ.
        tell: the number that the network is told at t: its `index`, `sigma`, or a function of (t, σ).
        clip: whether ẑ₀ is clamped to the range of pixels.

    Raises:
        UserError: the tables differ in length, σ does not increase, or z₀ cannot be told from what the network outputs.
    """

    def __init__(
        self,
        alphas: torch.Tensor,
        sigmas: torch.Tensor,
        predicts: str,
        tell: str | Callable[[float, float], float] = "index",
        clip: bool = False,
    ) -> None:
        self.alphas, self.sigmas = (torch.as_tensor(each).double().flatten().cpu() for each in (alphas, sigmas))
        if len(self.alphas) != len(self.sigmas) or len(self.sigmas) < 2:
            raise UserError("alphas and sigmas must be two tables of as many numbers, at least 2")
        if not bool((self.sigmas.diff() > 0).all() and (self.sigmas > 0).all() and (self.alphas >= 0).all()):
            raise UserError(
                "sigmas must be positive and increase from the image to the noise, and no alpha be negative"
            )
        if predicts in ("epsilon", "score") and not bool((self.alphas > 0).all()):
            raise UserError(f"where alpha is 0, the image cannot be told from a prediction of {predicts}")
        self.predicts, self.tell = predicts, tell
        self.config = {"num_train_timesteps": len(self.sigmas), "clip_sample": clip}

    def levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        below = t.floor().long().clamp(0, self.timesteps - 2)
        share = t.double() - below
        signal, sigma = (
            torch.lerp(each.to(t.device)[below], each.to(t.device)[below + 1], share)
            for each in (self.alphas, self.sigmas)
        )
        return signal, sigma

    def visited(self, steps: int) -> list[float]:
        return [round((self.timesteps - 1) * (steps - 1 - k) / (steps - 1)) for k in range(steps)]

    def first(self, noise: torch.Tensor) -> torch.Tensor:
        return noise * float(self.sigmas[-1])

    def enter(self, z_t: torch.Tensor, t: float, sigma: float) -> tuple[torch.Tensor, float]:
        told = self.tell(t, sigma) if callable(self.tell) else sigma if self.tell == "sigma" else t
        return z_t, float(told)

    def leave(
        self, output: torch.Tensor, z_t: torch.Tensor, signal: float, sigma: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.predicts == "sample":
            return output, (z_t - signal * output) / sigma
        if self.predicts == "flow":
            return (z_t - sigma * output) / (signal + sigma), (z_t + signal * output) / (signal + sigma)
        if self.predicts == "v_prediction":
            total = signal**2 + sigma**2
            return (signal * z_t - sigma * output) / total, (sigma * z_t + signal * output) / total
        eps = -sigma * output if self.predicts == "score" else output
        return (z_t - sigma * eps) / signal, eps

    def save(self, directory: Path) -> None:
        raise NotImplementedError("a table is part of the function that gives it")
