"""Makes the victim: trains a DPM on the members, imports one, or writes the closed-form optimum."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from side_ray.config import Config, DpmSection
from side_ray.datasets import ImageSet, read_split
from side_ray.diffusion.condition import Condition, condition_labels
from side_ray.diffusion.dpm import load_dpm, new_unet, save_pipeline
from side_ray.diffusion.optimal import OptimalDpm
from side_ray.diffusion.schedule import new_schedule
from side_ray.errors import UserError, naming
from side_ray.images import to_float
from side_ray.run import Artifact
from side_ray.stages.plan import Artifacts
from side_ray.stages.progress import Reporter
from side_ray.stages.trainer import Schedule, TrainSpec, train
from side_ray.storage import open_store
from side_ray.surrogate.distill import noisy


@dataclass(frozen=True)
class DpmRecipeMaker:
    """Builds the recipe in the worker, which reads the members from storage itself."""

    prepared: Artifact
    dpm: DpmSection
    seed: int

    def __call__(self, device: torch.device) -> "DpmRecipe":
        members = read_split(self.prepared.store, self.prepared.key, "member")
        labels = classes_of_members(members, self.dpm, self.seed)
        return DpmRecipe(to_float(members.images).to(device), self.dpm, self.seed, labels)


class DpmRecipe:
    """Denoising score matching: the mean squared error of the U-Net's prediction (Ho et al. 2020, Eq. 14).

    Args:
        images: float32 [N, C, H, W] in [-1, 1], all on the device: thousands of epochs read them from memory.
        labels: int64 [N], the class condition of each; None trains an unconditional model.
    """

    def __init__(self, images: torch.Tensor, dpm: DpmSection, seed: int, labels: np.ndarray | None = None) -> None:
        self.images, self.dpm, self.seed = images, dpm, seed
        torch.manual_seed(seed)
        self.schedule = new_schedule(dpm.schedule, dpm.timesteps, dpm.prediction)
        self.alphas_cumprod = self.schedule.alphas_cumprod.to(images.device)
        self.condition = None if labels is None else Condition.of_labels(labels)
        self.labels = None if labels is None else torch.from_numpy(labels).to(images.device)
        classes = {"num_class_embeds": len(self.condition.counts)} if self.condition else {}
        self.module: nn.Module = new_unet(dpm.unet.model_dump() | classes, tuple(images.shape[1:]))

    def loss(self, module: nn.Module, step: int, rows: slice) -> torch.Tensor:
        generator = torch.Generator(self.images.device).manual_seed(_step_seed(self.seed, step))
        size, device = self.dpm.batch_size, self.images.device
        chosen = torch.from_numpy(epoch_rows(len(self.images), size, step, self.seed)).to(device)
        x0, labels = self.images[chosen], None if self.labels is None else self.labels[chosen][rows]
        eps = torch.randn(x0.shape, generator=generator, device=device)
        t = torch.randint(self.dpm.timesteps, (size,), generator=generator, device=device)
        if self.dpm.flips:
            mirrored = torch.rand(size, generator=generator, device=device) < 0.5
            x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        x0, eps, t = x0[rows], eps[rows], t[rows]
        prediction = module(noisy(x0, t, eps, self.alphas_cumprod), t, class_labels=labels).sample
        return functional.mse_loss(prediction.float(), self._target(x0, eps, t))

    def _target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.dpm.prediction == "epsilon":
            return eps
        return x0 if self.dpm.prediction == "sample" else self.schedule.get_velocity(x0, eps, t)

    def export(self, directory: Path) -> dict[str, Any]:
        save_pipeline(self.module, self.schedule.config, directory)
        if self.condition:
            self.condition.save(directory)
        return {"parameters": sum(p.numel() for p in self.module.parameters())}


def classes_of_members(members: ImageSet, dpm: DpmSection, seed: int) -> np.ndarray | None:
    """The class that each member is trained with, int64 [N]; None for an unconditional model."""
    return condition_labels(dpm.condition, members.labels, len(members), dpm.condition_classes, seed)


def epoch_rows(total: int, batch: int, step: int, seed: int) -> np.ndarray:
    """Rows int64 [batch] of the given step, reading a new seeded permutation of the data set in every epoch."""
    position = np.arange(step * batch, (step + 1) * batch)
    epochs = {
        epoch: np.random.default_rng([seed, 1, epoch]).permutation(total) for epoch in set((position // total).tolist())
    }
    return np.array([epochs[p // total][p % total] for p in position.tolist()], np.int64)


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_dpm(config: Config, artifacts: Artifacts, reporter: Reporter) -> None:
    """Make the victim that `dpm.kind` asks for; does nothing if it is there."""
    artifact, dpm = artifacts.dpm, config.dpm
    if dpm.kind == "train":
        schedule = Schedule(
            steps=dpm.steps,
            batch_size=dpm.batch_size,
            lr=dpm.lr,
            weight_decay=dpm.weight_decay,
            checkpoint_every=dpm.checkpoint_every,
            lr_schedule=dpm.lr_schedule,
            warmup_steps=dpm.warmup_steps,
            grad_clip=dpm.grad_clip,
            ema_decay=dpm.ema_decay,
        )
        maker = DpmRecipeMaker(artifacts.prepare, dpm, config.run.seed)
        spec = TrainSpec(artifact, maker, schedule, config.cluster.precision, config.cluster.train_cpus)
        train(spec, "train_dpm", config.cluster, reporter)
    elif artifact.done:
        reporter.say("dpm: the model is there")
    elif dpm.kind == "import":
        _import(config, artifacts)
        reporter.say(f"dpm: imported {dpm.path}")
    else:
        _write_optimal(config, artifacts)
        reporter.say("dpm: wrote the closed-form optimum of the members")
    artifacts.run.point_latest(dpm=artifact.key)


def _write_optimal(config: Config, artifacts: Artifacts) -> None:
    artifact = artifacts.dpm
    images = to_float(read_split(artifact.store, artifacts.prepare.key, "member").images)
    with tempfile.TemporaryDirectory() as directory:
        OptimalDpm(images, new_schedule(config.dpm.schedule, config.dpm.timesteps)).save(Path(directory))
        artifact.store.put_dir(Path(directory), artifact.key)
    artifact.finish(kind="optimal", images=len(images))


def fetch_import(config: Config, shape: tuple[int, int, int]) -> Path:
    """The imported pipeline's directory, after it was opened and found to make images of `shape` (C, H, W).

    Raises:
        UserError: it cannot be opened, or its images have another shape.
    """
    assert config.dpm.path is not None
    store = open_store(config.dpm.path, endpoint=config.storage.endpoint, region=config.storage.region)
    directory = store.fetch_dir("")
    with naming("dpm.path"):
        made = tuple(load_dpm(directory).image_shape)
    if made != shape:
        raise UserError(
            f"dpm.path: {config.dpm.path} makes images of shape {made}, the data has {shape}; give the data set that this "
            "model was trained on"
        )
    return directory


def _import(config: Config, artifacts: Artifacts) -> None:
    artifact = artifacts.dpm
    height, width, channels = artifacts.prepare.info()["shape"]
    artifact.store.put_dir(fetch_import(config, (channels, height, width)), artifact.key)
    artifact.finish(kind="import", path=config.dpm.path)
