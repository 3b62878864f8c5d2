"""Makes the surrogate condition: implicit labels of the synthetic set, the time-dependent student (TDKD), and OL-TI."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torch.nn import functional

from side_ray.config import Config, SurrogateSection
from side_ray.datasets import ImageSet, read_split, to_parquet
from side_ray.diffusion.dpm import load_dpm
from side_ray.errors import UserError
from side_ray.images import decode_column, to_float
from side_ray.run import Artifact
from side_ray.stages.plan import Artifacts
from side_ray.stages.progress import Reporter
from side_ray.stages.trainer import Schedule, TrainSpec, train
from side_ray.surrogate import labels as implicit
from side_ray.surrogate.distill import (
    Accuracy,
    accuracy_by_timestep,
    distillation_loss,
    draw,
    noisy,
    require_better_than_chance,
)
from side_ray.surrogate.resnet import ResNet

LABELS = "labels.parquet"
# Images that the student is not trained on, to tell its accuracy by timestep.
HELD_BACK = 0.1


def network(section: SurrogateSection, channels: int, classes: int, time: bool) -> ResNet:
    """The classifier that the config asks for, with or without time module."""
    return ResNet.preset(section.arch, classes, width=section.width, stem=section.stem, in_channels=channels, time=time)


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

    def __call__(self, device: torch.device) -> "CleanRecipe":
        return CleanRecipe(
            read_split(self.prepared.store, self.prepared.key, "member"), self.section, self.seed, device
        )


class CleanRecipe:
    """Cross-entropy on the members and their original labels, without time module."""

    def __init__(self, members: ImageSet, section: SurrogateSection, seed: int, device: torch.device) -> None:
        assert members.labels is not None
        self.images, self.labels = to_float(members.images).to(device), torch.from_numpy(members.labels).to(device)
        self.batch, self.seed = section.batch_size, seed
        torch.manual_seed(seed)
        self.module: nn.Module = network(section, self.images.shape[1], int(self.labels.max()) + 1, time=False)

    def loss(self, module: nn.Module, step: int, rows: slice) -> torch.Tensor:
        chosen = np.random.Generator(np.random.Philox(key=[self.seed, step])).integers(
            len(self.images), size=self.batch
        )
        picked = torch.from_numpy(chosen)[rows].to(self.images.device)
        return functional.cross_entropy(module(self.images[picked]), self.labels[picked])

    @torch.no_grad()
    def export(self, directory: Path) -> dict[str, Any]:
        assert isinstance(self.module, ResNet)
        self.module.save(directory)
        right = (self.module(self.images).argmax(1) == self.labels).float().mean()
        return {"classes": self.module.config.num_classes, "accuracy_on_members": float(right)}


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


class StudentRecipe:
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
        self.images, self.teacher = to_float(images).to(device), torch.from_numpy(teacher).to(device)
        self.trained_on = len(images) - held
        self.alphas_cumprod = alphas_cumprod.to(device)
        self.section, self.seed = section, seed
        torch.manual_seed(seed)
        self.module: nn.Module = network(section, self.images.shape[1], teacher.shape[1], time=True)

    def loss(self, module: nn.Module, step: int, rows: slice) -> torch.Tensor:
        shape, device = tuple(self.images.shape[1:]), self.images.device
        chosen = draw(self.seed, step, self.section.batch_size, self.trained_on, shape, len(self.alphas_cumprod))
        picked, t, eps = (part[rows].to(device) for part in chosen)
        logits = module(noisy(self.images[picked], t, eps, self.alphas_cumprod), t)
        return distillation_loss(self.teacher[picked], logits, self.section.loss, self.section.temperature)

    def export(self, directory: Path) -> dict[str, Any]:
        assert isinstance(self.module, ResNet)
        self.module.save(directory)
        unseen, truth = self.images[self.trained_on :], self.teacher[self.trained_on :].argmax(1)
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
    needs += (
        ["labels: classifier"] if "td" in config.extract.methods and config.surrogate.labels == "classifier" else []
    )
    if needs and not classes:
        raise UserError(
            f"{needs[0]} needs labels, and {config.data.source} has none; drop it or use surrogate.labels: cluster"
        )
    if "td" in config.extract.methods:
        _make_labels(config, artifacts, reporter)
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
    maker = CleanRecipeMaker(artifacts.prepare, config.surrogate, config.run.seed)
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
    spec = TrainSpec(target, maker, schedule_of(config.surrogate, steps), config.cluster.precision, cluster.train_cpus)
    train(spec, title, cluster, reporter)


def _make_labels(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Write `labels.parquet`: sample_id · label (−1 = its cluster was dropped) · teacher (probabilities)."""
    target = artifacts.surrogate
    if target.store.exists(f"{target.key}/{LABELS}"):
        return
    if config.surrogate.labels == "classifier":
        _train_clean(config, artifacts, "teacher", reporter)
    count = config.surrogate.synthetic // config.extract.shard_size
    table = artifacts.synthetic.read_first(count, ["sample_id", "image"])
    label, teacher, found = _label(config, artifacts, decode_column(table.column("image")))
    columns = {
        "sample_id": table.column("sample_id"),
        "label": pa.array(label, pa.int64()),
        "teacher": pa.FixedSizeListArray.from_arrays(pa.array(teacher.ravel(), pa.float32()), teacher.shape[1]),
    }
    target.write_json("labels.json", found)
    target.store.write(f"{target.key}/{LABELS}", to_parquet(pa.table(columns)))
    reporter.say(
        f"train_surrogate: {found['classes']} {config.surrogate.labels} labels for {int((label >= 0).sum()):,} synthetic images"
    )


def _label(config: Config, artifacts: Artifacts, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Labels int64 [N], teacher probabilities float32 [N, K], and what is worth knowing of them."""
    section = config.surrogate
    if section.labels == "random":
        label = implicit.random_labels(len(images), section.classes, config.run.seed)
        return label, implicit.hard_targets(label, section.classes), {"classes": section.classes}
    if section.labels == "cluster":
        features = implicit.pixel_features(images)
        clusters = implicit.cluster_labels(features, section.classes, section.cohesion, config.run.seed)
        found = {
            "classes": len(clusters.kept),
            "asked": section.classes,
            "sizes": clusters.sizes.tolist(),
            "cohesion": [round(float(value), 4) for value in clusters.cohesion],
            "kept": clusters.kept.tolist(),
        }
        return clusters.assignment, clusters.targets, found
    teacher = ResNet.load(artifacts.run.store.fetch_dir(artifacts.surrogate.child("teacher").key))
    with torch.no_grad():
        probabilities = torch.cat([teacher(part).softmax(1) for part in to_float(images).split(512)]).numpy()
    return probabilities.argmax(1), probabilities, {"classes": probabilities.shape[1]}


def read_labels(artifacts: Artifacts) -> pa.Table:
    """The labelled synthetic set, without its images."""
    data = artifacts.run.store.read(f"{artifacts.surrogate.key}/{LABELS}")
    return pq.read_table(io.BytesIO(data))


def _require_skill(info: dict[str, Any]) -> None:
    curve = [Accuracy(**row) for row in info["accuracy"]]
    truth = torch.repeat_interleave(torch.arange(len(info["truth"])), torch.tensor(info["truth"]))
    require_better_than_chance(curve, truth)
