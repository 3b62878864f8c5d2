"""Makes the surrogate condition: implicit labels of the synthetic set, the time-dependent student (TDKD), and OL-TI."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from side_ray.config import Config, SurrogateSection
from side_ray.diffusion.dpm import load_dpm
from side_ray.diffusion.noise_process import noisy
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.images import decode_column, to_float
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Artifact
from side_ray.stages.label import labels_there, make_labels, read_labels
from side_ray.surrogate.distill import (
    Accuracy,
    accuracy_by_timestep,
    distillation_loss,
    draw,
    require_better_than_chance,
)
from side_ray.surrogate.resnet import ResNet
from side_ray.training.data import open_members
from side_ray.training.loop import Recipe, Schedule, TrainSpec
from side_ray.training.members import Members, floats, on_device
from side_ray.training.trainer import train

# Images that the student is not trained on, to tell its accuracy by timestep.
HELD_BACK = 0.1
EVALUATED = 512
"""Images that are classified at a time."""


def schedule_of(section: SurrogateSection, steps: int) -> Schedule:
    """The classifiers' common training schedule."""
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
    """Builds the recipe of a classifier of clean images: the teacher, or OL-TI."""

    prepared: Artifact
    section: SurrogateSection
    seed: int
    cache_bytes: float

    def __call__(self, device: torch.device) -> "CleanRecipe":
        count, batch = self.prepared.info()["member"], self.section.batch_size

        def order(step: int) -> np.ndarray:
            return np.random.Generator(np.random.Philox(key=[self.seed, step])).integers(count, size=batch)

        members = open_members(self.prepared, self.cache_bytes, batch, order, self.seed, device)
        return CleanRecipe(members, self.section, self.seed, device)


class CleanRecipe(Recipe):
    """Cross-entropy on the members and their original labels, without time module."""

    def __init__(self, members: Members, section: SurrogateSection, seed: int, device: torch.device) -> None:
        assert members.labels is not None
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
        right = 0
        for piece in self.members.pieces():
            ids = torch.from_numpy(piece.ids).to(self.device)
            for some, images in zip(ids.split(EVALUATED), to_float(piece.images).split(EVALUATED), strict=True):
                right += int((self.module(images.to(self.device)).argmax(1) == self.labels[some]).sum())
        return {"classes": self.module.config.num_classes, "accuracy_on_members": right / self.members.count}


@dataclass(frozen=True)
class StudentRecipeMaker:
    """Builds the TDKD recipe from the labelled synthetic set."""

    artifacts: Artifacts

    def __call__(self, device: torch.device) -> "StudentRecipe":
        config, store = self.artifacts.config, self.artifacts.run.store
        count = config.surrogate.synthetic // config.extract.shard_size
        images = decode_column(self.artifacts.synthetic.read_first(count, ["image"]).column("image"))
        table = read_labels(self.artifacts)
        dpm = load_dpm(store.fetch_dir(self.artifacts.dpm.key))
        kept = table.column("label").to_numpy() >= 0
        teacher = np.stack(table.column("teacher").to_numpy(zero_copy_only=False))
        return StudentRecipe(images[kept], teacher[kept], dpm.alphas_cumprod, config.surrogate, config.run.seed, device)


class StudentRecipe(Recipe):
    """Time-dependent knowledge distillation (Eq. 13): the student sees x_t and t, the teacher's probabilities are of x₀.

    Args:
        images: uint8 [N, H, W, C], sampled from the DPM.
        teacher: float32 [N, K], rows sum to 1.
        alphas_cumprod: float64 [T] of the DPM's own noise schedule.
    """

    def __init__(
        self,
        images: np.ndarray,
        teacher: np.ndarray,
        alphas_cumprod: torch.Tensor,
        section: SurrogateSection,
        seed: int,
        device: torch.device,
    ) -> None:
        held = max(1, round(len(images) * HELD_BACK))
        self.pixels = on_device(images, device)
        self.teacher, self.device = torch.from_numpy(teacher).to(device), device
        self.trained_on = len(images) - held
        self.alphas_cumprod = alphas_cumprod.to(device)
        self.section, self.seed = section, seed
        torch.manual_seed(seed)
        self.module: nn.Module = ResNet.from_section(
            section, num_classes=teacher.shape[1], in_channels=self.pixels.shape[1], time=True
        )

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """x₀ float32 [n, C, H, W], the teacher's probabilities float32 [n, K], t int64 [n], ε float32 [n, C, H, W]."""
        shape = tuple(self.pixels.shape[1:])
        drawn = draw(self.seed, step, self.section.batch_size, self.trained_on, shape, len(self.alphas_cumprod))
        picked, t, eps = (part[rows] for part in drawn)
        x0 = floats(self.pixels[picked.to(self.pixels.device)].to(self.device))
        return x0, self.teacher[picked.to(self.device)], t.to(self.device), eps.to(self.device)

    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        x0, teacher, t, eps = parts
        logits = module(noisy(x0, t, eps, self.alphas_cumprod), t)
        return distillation_loss(teacher, logits, self.section.loss, self.section.temperature)

    def export(self, directory: Path) -> dict[str, Any]:
        assert isinstance(self.module, ResNet)
        self.module.save(directory)
        unseen = floats(self.pixels[self.trained_on :].to(self.device))
        truth = self.teacher[self.trained_on :].argmax(1)
        curve = accuracy_by_timestep(self.module, unseen, truth, self.alphas_cumprod)
        rows = [{"first": c.first, "last": c.last, "hits": c.hits, "count": c.count} for c in curve]
        return {"classes": self.module.config.num_classes, "accuracy": rows, "truth": torch.bincount(truth).tolist()}


def train_surrogate(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Train what the methods need: for `td` the labels and the student, for `ti` the OL-TI classifier.

    Raises:
        UserError: a method or label source needs labels that the data set does not have.
        RunError: training failed, or the student does not beat chance on nearly clean images.
    """
    classes = artifacts.prepare.info()["classes"]
    needs = [name for name in ("ti",) if name in config.extract.methods]
    needs += ["surrogate.teacher"] if "td" in config.extract.methods and config.surrogate.wants_labels else []
    if needs and not classes:
        raise UserError(
            f"{needs[0]} needs labels, and {config.data.source} has none; drop it or use surrogate.labels: cluster"
        )
    if "td" in config.extract.methods:
        if not labels_there(artifacts):
            if config.surrogate.wants_labels:
                _train_clean(config, artifacts, "teacher", reporter)
            make_labels(config, artifacts, reporter)
        maker = StudentRecipeMaker(artifacts)
        _train(
            config,
            artifacts,
            artifacts.surrogate.child("student"),
            maker,
            config.surrogate.steps,
            "train_surrogate: student",
            reporter,
        )
        if config.surrogate.labels != "random":
            _require_skill(artifacts.surrogate.child("student").info())
    if "ti" in config.extract.methods:
        _train_clean(config, artifacts, "ol_ti", reporter)
    if not artifacts.surrogate.done:
        artifacts.surrogate.finish(methods=[name for name in config.extract.methods if name != "random"])
    artifacts.run.point_latest(surrogate=artifacts.surrogate.key)


def _train_clean(config: Config, artifacts: Artifacts, name: Literal["teacher", "ol_ti"], reporter: Reporter) -> None:
    cache_bytes = config.cluster.train_cache_gb * 2**30
    maker = CleanRecipeMaker(artifacts.prepare, config.surrogate, config.run.seed, cache_bytes)
    _train(
        config,
        artifacts,
        artifacts.surrogate.child(name),
        maker,
        config.surrogate.ti_steps,
        f"train_surrogate: {name}",
        reporter,
    )


def _train(
    config: Config, artifacts: Artifacts, target: Artifact, maker: Any, steps: int, title: str, reporter: Reporter
) -> None:
    # BatchNorm's statistics are those of one worker's rows: split over several, another network would come out.
    cluster = config.cluster.model_copy(update={"train_workers": 1})
    schedule = schedule_of(config.surrogate, steps)
    spec = TrainSpec(target, maker, schedule, config.cluster.precision, cluster.train_cpus, title)
    train(spec, cluster, reporter)


def _require_skill(info: dict[str, Any]) -> None:
    curve = [Accuracy(**row) for row in info["accuracy"]]
    truth = torch.repeat_interleave(torch.arange(len(info["truth"])), torch.tensor(info["truth"]))
    require_better_than_chance(curve, truth)
