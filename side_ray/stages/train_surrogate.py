"""Step: distil the time-dependent student p_t(y|x_t) on the labelled synthetic set (TDKD, Eq. 13) and train OL-TI."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from side_ray.config import SurrogateSection
from side_ray.diffusion.dpm import Dpm, is_latent, load_dpm
from side_ray.diffusion.processes import process_of
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.diffusion.spaces.view import LatentView, View
from side_ray.execution.audit import Audit
from side_ray.images import decode_column
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.dataset import read_latents
from side_ray.stages.label import FOUND, read_labels, require_labels
from side_ray.surrogate.distill import (
    Accuracy,
    accuracy_by_timestep,
    distillation_loss,
    draw,
    require_better_than_chance,
)
from side_ray.surrogate.resnet import ResNet
from side_ray.training.classifier import clean_part, part, train_parts
from side_ray.training.loop import Recipe
from side_ray.training.lora import Labelled, LoraRecipe, require_labels_told
from side_ray.training.members import floats, on_device, pixels_of

HELD_OUT = 0.1
"""Share of the synthetic images that is held out from training, to measure the student's accuracy by timestep."""


@dataclass(frozen=True)
class StudentRecipeMaker:
    """Builds the recipe of the student in the worker, from the labelled synthetic set."""

    artifacts: Artifacts

    def __call__(self, device: torch.device) -> "StudentRecipe":
        config, artifacts = self.artifacts.config, self.artifacts
        table = read_labels(artifacts)
        dpm = load_dpm(artifacts.dpm.fetch(), code=config.dpm.function is not None)
        kept = table.column("label").to_numpy() >= 0
        teacher = np.stack(table.column("teacher").to_numpy(zero_copy_only=False))
        clean, statistics = _clean(artifacts, dpm)
        view = View.of(dpm) if statistics is None else LatentView(process_of(dpm.schedule), statistics)
        return StudentRecipe(clean[kept], teacher[kept], view, config.surrogate, config.run.seed, device)


def _clean(artifacts: Artifacts, dpm: Dpm) -> tuple[torch.Tensor, LatentStatistics | None]:
    """The synthetic set: latents float32 [N, c, h, w] with their statistics, or images uint8 [N, C, H, W]."""
    if is_latent(dpm):
        latents = read_latents(artifacts.synthetic, artifacts.synthetic_shards)
        return torch.from_numpy(latents), LatentStatistics.of(latents)
    images = artifacts.synthetic.read_first(artifacts.synthetic_shards, ["image"]).column("image")
    return pixels_of(decode_column(images)), None


@dataclass(frozen=True)
class LoraRecipeMaker:
    """Builds the recipe of the LoRA surrogate in the worker, from the labelled synthetic set."""

    artifacts: Artifacts

    def __call__(self, device: torch.device) -> LoraRecipe:
        config, artifacts = self.artifacts.config, self.artifacts
        dpm = load_dpm(artifacts.dpm.fetch(), device, code=config.dpm.function is not None)
        labels = torch.tensor(read_labels(artifacts).column("label").to_numpy())
        kept, (clean, statistics) = labels >= 0, _clean(artifacts, dpm)
        z0 = clean if statistics is not None else floats(clean)
        if statistics is None and dpm.codec is not None:
            z0 = dpm.codec.encode(z0)
        given = None
        if dpm.num_classes is not None:
            classes = artifacts.synthetic.read_first(artifacts.synthetic_shards, ["class"]).column("class")
            given = torch.tensor(classes.to_numpy())[kept]
        data = Labelled(z0[kept], labels[kept], artifacts.surrogate.read_json(FOUND)["classes"], given, statistics)
        return LoraRecipe(dpm, data, _held(len(data.z0)), config.surrogate, config.run.seed)


def _held(samples: int) -> int:
    return max(1, round(samples * HELD_OUT))


class StudentRecipe(Recipe):
    """Time-dependent knowledge distillation (Eq. 13): the student sees x_t and t and learns the teacher's probabilities of x₀.

    Args:
        clean: sampled from the DPM: images uint8 [N, C, H, W], or latents float32 [N, c, h, w].
        teacher: float32 [N, K], the teacher's probabilities; rows sum to 1.
        view: what the student sees of the DPM's noisy images.
    """

    def __init__(
        self,
        clean: torch.Tensor,
        teacher: np.ndarray,
        view: View | LatentView,
        section: SurrogateSection,
        seed: int,
        device: torch.device,
    ) -> None:
        held = _held(len(clean))
        self.clean = on_device(clean, device)
        self.teacher, self.device = torch.from_numpy(teacher).to(device), device
        self.trained_on = len(clean) - held
        self.view = view
        self.section, self.seed = section, seed
        torch.manual_seed(seed)
        self.module: nn.Module = ResNet.from_section(
            section, num_classes=teacher.shape[1], in_channels=self.clean.shape[1], time=True
        )

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """x₀ (or z₀) float32 [n, C, H, W], the teacher's probabilities float32 [n, K], t int64 [n], ε float32 [n, C, H, W]."""
        shape = tuple(self.clean.shape[1:])
        drawn = draw(self.seed, step, self.section.batch_size, self.trained_on, shape, self.view.timesteps)
        picked, t, eps = (part[rows] for part in drawn)
        x0 = self._x0(picked.to(self.clean.device))
        return x0, self.teacher[picked.to(self.device)], t.to(self.device), eps.to(self.device)

    def _x0(self, rows: torch.Tensor | slice) -> torch.Tensor:
        clean = self.clean[rows].to(self.device)
        return clean if isinstance(self.view, LatentView) else floats(clean)

    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        x0, teacher, t, eps = parts
        logits = module(self.view.noised(x0, t, eps), t)
        return distillation_loss(teacher, logits, self.section.loss, self.section.temperature)

    def export(self, directory: Path) -> dict[str, Any]:
        assert isinstance(self.module, ResNet)
        self.module.save(directory)
        if isinstance(self.view, LatentView):
            self.view.latents.save(directory)
        unseen = self._x0(slice(self.trained_on, None))
        truth = self.teacher[self.trained_on :].argmax(1)
        curve = accuracy_by_timestep(self.module, unseen, truth, self.view)
        rows = [{"first": c.first, "last": c.last, "hits": c.hits, "count": c.count} for c in curve]
        return {"classes": self.module.config.num_classes, "accuracy": rows, "truth": torch.bincount(truth).tolist()}


def train_surrogate(audit: Audit) -> None:
    """Train what guides in the methods in use: the time-dependent student or the LoRA surrogate for `td`, OL-TI for `ti`.

    Raises:
        UserError: OL-TI needs labels, and the data set has none.
        RunError: training failed, the student is not better than chance on nearly clean images, or labels make no difference to
            the LoRA surrogate.
    """
    config, surrogate = audit.config, audit.artifacts.surrogate
    guided, kind, parts = config.extract.methods, config.surrogate.kind, []
    if "ti" in guided:
        require_labels(audit, "ti")
    if "td" in guided and kind == "lora":
        parts.append(part(audit, "lora", LoraRecipeMaker(audit.artifacts), config.surrogate.steps))
    elif "td" in guided:
        parts.append(part(audit, "student", StudentRecipeMaker(audit.artifacts), config.surrogate.steps))
    if "ti" in guided:
        parts.append(clean_part(audit, "ol_ti"))
    train_parts(audit, *parts)
    if "td" in guided and config.surrogate.labels != "random":
        if kind == "lora":
            require_labels_told(surrogate.child("lora").info())
        else:
            _require_skill(surrogate.child("student").info())
    if not audit.has(surrogate):
        surrogate.finish(methods=[name for name in config.extract.methods if name != "random"])
    audit.run.point_latest(surrogate=surrogate.key)


def _require_skill(info: dict[str, Any]) -> None:
    curve = [Accuracy(**row) for row in info["accuracy"]]
    truth = torch.repeat_interleave(torch.arange(len(info["truth"])), torch.tensor(info["truth"]))
    require_better_than_chance(curve, truth)
