"""Trains the LoRA surrogate: the DPM fine-tuned on its own labelled samples."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from side_ray.config import SurrogateSection
from side_ray.diffusion.dpm import Dpm, latent_shape
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.errors import RunError
from side_ray.surrogate.distill import draw
from side_ray.surrogate.lora import LoraNetwork
from side_ray.training.loop import Recipe

BINS, BATCH = 10, 128


LEAST_SCORE = 3.1
"""z-value of a one-sided test at 1e-3."""


@dataclass(frozen=True)
class Labelled:
    """N samples of the DPM.

    Args:
        z0: what the DPM diffuses, float32 [N, c, h, w].
        labels: int64 [N] in 0 … classes−1.
        classes: number of labels.
        given: int64 [N], the class that a class-conditional DPM was given; None for any other.
        latents: the statistics of z0 for a latent model; None for pixels.
    """

    z0: torch.Tensor
    labels: torch.Tensor
    classes: int
    given: torch.Tensor | None = None
    latents: LatentStatistics | None = None


class LoraRecipe(Recipe):
    """The DPM's own loss on its samples, with their labels; the last of them, `held`, are not trained on."""

    def __init__(self, model: Dpm, data: Labelled, held: int, section: SurrogateSection, seed: int) -> None:
        self.data, self.trained_on, self.section, self.seed = data, len(data.z0) - held, section, seed
        self.device, self.shape = model.device, latent_shape(model)
        self.timesteps = model.schedule.config["num_train_timesteps"]
        torch.manual_seed(seed)
        self.network = LoraNetwork(model, data.classes, section.rank)
        self.module: nn.Module = self.network
        parameters = self.network.named_parameters()
        self.frozen = frozenset(name for name, value in parameters if not value.requires_grad)

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """z₀ float32 [n, c, h, w], t int64 [n], ε float32 [n, c, h, w], labels int64 [n], and the DPM's classes if any."""
        drawn = draw(self.seed, step, self.section.batch_size, self.trained_on, self.shape, self.timesteps)
        picked, t, eps = (part[rows] for part in drawn)
        return self._batch(picked, t, eps)

    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = module(*parts).mean()
        return loss

    @torch.no_grad()
    def export(self, directory: Path) -> dict[str, Any]:
        self.network.save(directory)
        if self.data.latents is not None:
            self.data.latents.save(directory)
        own, other = self._losses()
        edges = np.linspace(0, self.timesteps, BINS + 1).round().astype(int)
        rows = [
            {"first": int(first), "last": int(end) - 1, "own": float(mine), "other": float(others)}
            for (first, end), mine, others in zip(pairwise(edges), own.mean(1), other.mean(1), strict=True)
        ]
        differences = (other - own).mean(0)
        spread = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        score = float(differences.mean() / spread) if spread > 0 else 0.0
        return {"classes": self.data.classes, "losses": rows, "score": score}

    def _losses(self) -> tuple[np.ndarray, np.ndarray]:
        """The loss of the samples that were not trained on, with their label and with the next one, float64 [BINS, n]."""
        rows = torch.arange(self.trained_on, len(self.data.z0))
        edges = np.linspace(0, self.timesteps, BINS + 1).round().astype(int)
        found = np.empty((2, BINS, len(rows)))
        for place, (first, end) in enumerate(pairwise(edges)):
            for number, some in enumerate(rows.split(BATCH)):
                step = place * len(rows) + number
                noise = draw(self.seed, step, len(some), 1, self.shape, int(end - first))
                z0, t, eps, labels, *given = self._batch(some, noise.t + int(first), noise.eps)
                start = number * BATCH
                for side, shift in enumerate((0, 1)):
                    loss = self.network(z0, t, eps, (labels + shift) % self.data.classes, *given)
                    found[side, place, start : start + len(some)] = loss.double().cpu().numpy()
        return found[0], found[1]

    def _batch(self, rows: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = [] if self.data.given is None else [self.data.given[rows]]
        parts = (self.data.z0[rows], t, eps, self.data.labels[rows], *given)
        return tuple(part.to(self.device) for part in parts)


def require_labels_told(info: dict[str, Any]) -> None:
    """Raise RunError unless the loss of samples that were not trained on is lower with their own label than with another one.

    info: what `LoraRecipe.export` returned; `score` is the mean difference over its standard error, tested one-sided at 1e-3.
    """
    if info["score"] < LEAST_SCORE:
        own, other = (np.mean([row[name] for row in info["losses"]]) for name in ("own", "other"))
        raise RunError(
            f"the LoRA surrogate does not tell labels apart: its loss is {own:.4f} with a sample's own label and {other:.4f} "
            "with another; raise surrogate.steps, surrogate.rank or surrogate.lr, or use fewer surrogate.classes"
        )
