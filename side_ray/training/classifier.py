"""Trains classifiers on clean images: the teacher that labels the synthetic set, and the OL-TI baseline."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from side_ray.config import SurrogateSection
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.execution.audit import Audit
from side_ray.images import to_float
from side_ray.runs.dataset import read_latents
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact
from side_ray.runs.shards import ShardSet
from side_ray.surrogate.resnet import ResNet
from side_ray.training.data import open_members
from side_ray.training.loop import Recipe, Schedule, TrainSpec
from side_ray.training.members import Members
from side_ray.training.trainer import train

EVALUATION_BATCH = 512
"""Images classified at a time when the accuracy is measured."""


def schedule_of(section: SurrogateSection, steps: int) -> Schedule:
    """The training schedule that all classifiers share, for `steps` steps."""
    return Schedule(
        steps=steps,
        batch_size=section.batch_size,
        lr=section.lr,
        weight_decay=section.weight_decay,
        checkpoint_every=section.checkpoint_every,
        lr_schedule=section.lr_schedule,
    )


@dataclass(frozen=True)
class CleanRecipeMaker:
    """Builds the recipe of a classifier of clean images in the worker: the teacher or OL-TI."""

    prepared: Artifact
    section: SurrogateSection
    seed: int
    cache_bytes: float
    latents: tuple[ShardSet, int] | None = None
    """The synthetic set of a latent model and its number of shards, for a classifier that guides it."""

    def __call__(self, device: torch.device) -> "CleanRecipe":
        count, batch = self.prepared.info()["member"], self.section.batch_size

        def order(step: int) -> np.ndarray:
            return np.random.Generator(np.random.Philox(key=[self.seed, step])).integers(count, size=batch)

        members = open_members(self.prepared, self.cache_bytes, batch, order, self.seed, device)
        statistics = None if self.latents is None else LatentStatistics.of(read_latents(*self.latents))
        return CleanRecipe(members, self.section, self.seed, device, statistics)


class CleanRecipe(Recipe):
    """Cross-entropy on the members and their original labels. The network takes no timestep."""

    def __init__(
        self,
        members: Members,
        section: SurrogateSection,
        seed: int,
        device: torch.device,
        statistics: LatentStatistics | None = None,
    ) -> None:
        assert members.labels is not None
        self.statistics = statistics
        self.members, self.labels, self.device = members, members.labels, device
        torch.manual_seed(seed)
        self.module: nn.Module = ResNet.from_section(
            section, num_classes=int(self.labels.max()) + 1, in_channels=members.shape[0], time=False
        )

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """Images float32 [n, C, H, W] and their labels int64 [n]."""
        images, ids = self.members.draw(step, rows)
        return images, self.labels[ids]

    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        images, labels = parts
        return functional.cross_entropy(module(images), labels)

    @torch.no_grad()
    def export(self, directory: Path) -> dict[str, Any]:
        assert isinstance(self.module, ResNet)
        self.members.close()
        self.module.save(directory)
        if self.statistics is not None:
            self.statistics.save(directory)
        right = 0
        for piece in self.members.pieces():
            ids = torch.tensor(piece.ids, device=self.device)
            for some, images in zip(
                ids.split(EVALUATION_BATCH), to_float(piece.images).split(EVALUATION_BATCH), strict=True
            ):
                right += int((self.module(images.to(self.device)).argmax(1) == self.labels[some]).sum())
        return {"classes": self.module.config.num_classes, "accuracy_on_members": right / self.members.count}


def clean_part(audit: Audit, name: Literal["teacher", "ol_ti"]) -> TrainSpec:
    """How a classifier of clean images is trained on the members and their labels. Output: `name` in the surrogate's artifact."""
    config, artifacts = audit.config, audit.artifacts
    cache_bytes = config.cluster.train_cache_gb * 2**30
    latents = (artifacts.synthetic, artifacts.synthetic_shards) if artifacts.latent and name == "ol_ti" else None
    maker = CleanRecipeMaker(artifacts.prepare, config.surrogate, config.run.seed, cache_bytes, latents)
    return part(audit, name, maker, config.surrogate.ti_steps)


def part(audit: Audit, name: str, recipe: Callable[[torch.device], Recipe], steps: int) -> TrainSpec:
    """How one network of the surrogate is trained. Output: `name` in the surrogate's artifact."""
    config, cluster = audit.config, audit.config.cluster
    target, title = audit.artifacts.surrogate.child(name), f"train_surrogate: {name}"
    schedule = schedule_of(config.surrogate, steps)
    return TrainSpec(target, recipe, schedule, cluster.precision, cluster.train_cpus, title, lr_key="surrogate.lr")


def train_parts(audit: Audit, *parts: TrainSpec) -> None:
    """Train networks of the surrogate.

    Uses one worker: BatchNorm's statistics are per worker, so several workers would train a different network.
    """
    artifacts = audit.artifacts

    def guided(spec: TrainSpec) -> Iterator[ShardSet]:
        by_it = (each for each in conditions(audit.config) if artifacts.classifier(each) == spec.artifact.key)
        return map(artifacts.samples, by_it)

    train(audit, *parts, workers=1, made=guided)
