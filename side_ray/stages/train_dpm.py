"""Step: make the DPM under audit. Trains it on the members, imports it, or writes the closed-form optimum."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from side_ray.config import DpmSection
from side_ray.diffusion.condition import Condition, condition_labels
from side_ray.diffusion.condition.drawn import Conditioning, embeds_guidance
from side_ray.diffusion.denoisers import made_from_members
from side_ray.diffusion.denoisers.unet import unet_section
from side_ray.diffusion.draw import DrawSettings
from side_ray.diffusion.noise_process import new_schedule, noisy
from side_ray.diffusion.unet_dpm import UnetDpm, new_unet, save_pipeline
from side_ray.errors import renamed
from side_ray.execution.audit import Audit
from side_ray.images import to_float
from side_ray.runs.dataset import read_groups, read_split
from side_ray.runs.imported.conditions import write_conditions
from side_ray.runs.imported.keeping import put_model, renew
from side_ray.runs.imported.opening import imported, opened_base
from side_ray.runs.plan import conditions
from side_ray.runs.run import Artifact
from side_ray.storage.scratch import scratch
from side_ray.training.data import open_members
from side_ray.training.loop import Recipe, Schedule, TrainSpec
from side_ray.training.members import Members
from side_ray.training.preview import PreviewSpec, preview
from side_ray.training.trainer import train

BY_REFERENCE = "; its weights are large, so the run refers to them: keep them there, unchanged"


@dataclass(frozen=True)
class DpmRecipeMaker:
    """Builds the recipe of the DPM in the worker, which reads the members from storage."""

    prepared: Artifact
    dpm: DpmSection
    seed: int
    cache_bytes: float = float("inf")
    preview: PreviewSpec | None = None

    def __call__(self, device: torch.device) -> "DpmRecipe":
        members = open_members(self.prepared, self.cache_bytes, self.dpm.batch_size, None, self.seed, device)
        return DpmRecipe(members, self.dpm, self.seed, device, self.preview)


class DpmRecipe(Recipe):
    """Denoising score matching: the mean squared error of the U-Net's prediction (Ho et al. 2020, Eq. 14)."""

    def __init__(
        self, members: Members, dpm: DpmSection, seed: int, device: torch.device, preview: PreviewSpec | None = None
    ) -> None:
        self.members, self.dpm, self.seed, self.device, self.preview_spec = members, dpm, seed, device, preview
        torch.manual_seed(seed)
        self.schedule = new_schedule(dpm.schedule, dpm.timesteps, dpm.prediction)
        self.alphas_cumprod = self.schedule.alphas_cumprod.to(device)
        own = None if members.labels is None else members.labels.cpu().numpy()
        labels = classes_of_members(own, members.count, dpm, seed)
        self.condition = None if labels is None else Condition.of_labels(labels)
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        classes = {"num_class_embeds": len(self.condition.counts)} if self.condition else {}
        self.module: nn.Module = new_unet(unet_section(dpm).model_dump() | classes, members.shape)

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """x₀ and ε, float32 [n, C, H, W]; t, int64 [n]; and, for a conditional model, the class, int64 [n]."""
        generator = torch.Generator(self.device).manual_seed(_step_seed(self.seed, step))
        size = self.dpm.batch_size
        x0, ids = self.members.draw(step, rows)
        eps = torch.randn((size, *self.members.shape), generator=generator, device=self.device)
        t = torch.randint(self.dpm.timesteps, (size,), generator=generator, device=self.device)
        if self.dpm.flips:
            mirrored = torch.rand(size, generator=generator, device=self.device) < 0.5
            x0 = torch.where(mirrored[rows, None, None, None], x0.flip(-1), x0)
        if unet_section(self.dpm).dropout:
            # Dropout uses the global generator; seeding it per step makes a resumed training draw the same numbers.
            torch.manual_seed(_step_seed(self.seed, step) ^ rows.start)
        return x0, eps[rows], t[rows], *(() if self.labels is None else (self.labels[ids],))

    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        x0, eps, t, *labels = parts
        prediction = module(noisy(x0, t, eps, self.alphas_cumprod), t, *labels).sample
        return functional.mse_loss(prediction.float(), self._target(x0, eps, t))

    def _target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.dpm.prediction == "epsilon":
            return eps
        return x0 if self.dpm.prediction == "sample" else self.schedule.get_velocity(x0, eps, t)

    def preview(self) -> tuple[dict[str, float], np.ndarray]:
        assert self.preview_spec is not None
        return preview(self.preview_spec, UnetDpm(self.module, self.schedule, self.condition), self.members.pieces())

    def export(self, directory: Path) -> dict[str, Any]:
        self.members.close()
        save_pipeline(self.module, self.schedule.config, directory)
        if self.condition:
            self.condition.save(directory)
        return {"parameters": sum(p.numel() for p in self.module.parameters())}


def classes_of_members(own: np.ndarray | None, count: int, dpm: DpmSection, seed: int) -> np.ndarray | None:
    """The class condition of each member in training, int64 [count]; None for an unconditional model.

    Args:
        own: int64 [count], the members' labels; None if they have none.
    """
    return condition_labels(dpm.condition, own, count, dpm.condition_classes, seed)


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_dpm(audit: Audit) -> None:
    """Train, import or write the DPM, depending on `dpm.kind`; does nothing if it exists.

    Raises:
        RunError: training failed. Checkpoints are kept, and re-running resumes.
        UserError: the imported model cannot be opened, or its images have another shape.
    """
    config, artifacts = audit.config, audit.artifacts
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
            accumulation=dpm.grad_accumulation,
            grad_clip=dpm.grad_clip,
            ema_decay=dpm.ema_decay,
            ema_power=dpm.ema_power,
            ema_inv_gamma=dpm.ema_inv_gamma,
            preview_every=dpm.samples_every,
        )
        settings = DrawSettings.of(config.extract, config.cluster.precision)
        preview_spec = None
        if dpm.samples_every:
            members = artifacts.prepare
            repeated = read_groups(members.store, members.key, "member", config.data.members).repeated
            preview_spec = PreviewSpec(
                config.run.seed, settings, config.score, dpm.probe, config.compares_flips, repeated
            )
        cache_bytes = config.cluster.train_cache_gb * 2**30
        maker = DpmRecipeMaker(artifacts.prepare, dpm, config.run.seed, cache_bytes, preview_spec)
        spec = TrainSpec(artifact, maker, schedule, config.cluster.precision, config.cluster.train_cpus, "train_dpm")
        train(audit, spec, made=lambda spec: (artifacts.synthetic, *map(artifacts.samples, conditions(config))))
    elif audit.has(artifact):
        if dpm.kind == "import":
            renew(artifact, config, artifacts.found)
        audit.reporter.say("dpm: the model exists already")
    elif dpm.kind == "import":
        audit.reporter.say(f"dpm: imported {dpm.path}{BY_REFERENCE if _import(audit) else ''}")
    else:
        _make(audit)
    audit.run.point_latest(dpm=artifact.key)
    if artifacts.base is not None:
        _import_base(audit, artifacts.base)
        audit.run.point_latest(base=artifacts.base.key)
    if artifacts.condition is not None:
        if not audit.has(artifacts.condition):
            write_conditions(artifacts.condition, artifacts.prepare, config)
        audit.run.point_latest(condition=artifacts.condition.key)


def _make(audit: Audit) -> None:
    config, artifacts = audit.config, audit.artifacts
    artifact, kind = artifacts.dpm, made_from_members(config.dpm)
    assert kind is not None
    images = to_float(read_split(artifact.store, artifacts.prepare.key, "member").images)
    with scratch() as directory:
        kind.save(kind.make(images, config.dpm), directory)
        artifact.put_dir(directory)
    artifact.finish(kind=config.dpm.kind, images=len(images))
    audit.reporter.say(f"dpm: made the {kind.title} DPM of the members")


def _import_base(audit: Audit, base: Artifact) -> None:
    config, artifacts, of_base = audit.config, audit.artifacts, audit.config.of_base
    assert of_base is not None
    assert artifacts.found_base is not None
    if audit.has(base):
        renew(base, of_base, artifacts.found_base)
        return
    with opened_base(config) as (directory, _), renamed("dpm.path", "dpm.base"):
        refers = put_model(base, directory, of_base, artifacts.found_base, artifacts.base_identity)
    base.finish(kind="import", path=config.dpm.base, **_commit(artifacts.base_commit))
    audit.reporter.say(f"dpm: imported its base {config.dpm.base}{BY_REFERENCE if refers else ''}")


def _import(audit: Audit) -> bool:
    """Returns whether the run refers to the model's weights."""
    config, artifact, info = audit.config, audit.artifacts.dpm, audit.artifacts.prepare.info()
    height, width, channels = info["shape"]
    with imported(config, (channels, height, width)) as (directory, model):
        replace(Conditioning.of(config.dpm), counts=(1,) * info["classes"]).check(model)
        null = config.dpm.null_class if config.dpm.null_class is not None else getattr(model, "null_class", None)
        if model.num_classes == info["classes"] + 1 > 1 and null is None:
            audit.reporter.warn(
                f"dpm.path: the model has {model.num_classes} classes, the data {info['classes']}; if the last is the null class "
                f"of classifier-free guidance, set dpm.null_class={info['classes']}"
            )
        if embeds_guidance(model) and config.dpm.guidance_scale == 1:
            audit.reporter.warn(
                "dpm.guidance_scale: this model is told the guidance scale, and 1 is none; if it is used with another (its "
                "pipeline takes 3.5), set that one, because copies may be found with it only"
            )
        refers = put_model(artifact, directory, config, audit.artifacts.found, audit.artifacts.identity)
    artifact.finish(kind="import", path=config.dpm.path, **_commit(audit.artifacts.hub_commit))
    return refers


def _commit(commit: str) -> dict[str, str]:
    return {"commit": commit} if commit else {}
