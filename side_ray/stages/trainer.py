"""Trains one network by Ray Train, with checkpoints in the run's storage, from the newest whole one of which it resumes."""

import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn

from side_ray.config import ClusterSection
from side_ray.errors import RunError
from side_ray.run import Artifact
from side_ray.stages.claim import Claim
from side_ray.stages.progress import Bar, Reporter
from side_ray.stages.session import ensure_ray

PROGRESS = "_progress.json"
CHECKPOINTS = "checkpoints"
CURVE = "curve.json"
CURVE_POINTS = 200
PROGRESS_EVERY_S = 2.0


class Recipe(Protocol):
    """What is trained and on what. Made anew in every worker."""

    module: nn.Module

    def loss(self, module: nn.Module, step: int, rows: slice) -> torch.Tensor:
        """Mean loss over `rows` of the batch of `step`.

        A function of its arguments: every random choice is drawn for (seed, step) over the whole batch, so that a resumed
        training sees what an undisturbed one sees, and W workers with a W-th of the batch each see what one worker sees.
        """
        ...

    def export(self, directory: Path) -> dict[str, Any]:
        """Write the trained `module` into an empty directory and return what is worth knowing of it."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. `batch_size` counts the images of one step over all workers."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    checkpoint_every: int
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    grad_clip: float | None = None
    ema_decay: float | None = None


@dataclass(frozen=True)
class TrainSpec:
    """Everything that a training worker needs, by path."""

    artifact: Artifact
    recipe: Callable[[torch.device], Recipe]
    schedule: Schedule
    precision: str
    threads: int


def train(spec: TrainSpec, title: str, cluster: ClusterSection, reporter: Reporter) -> None:
    """Train until `spec.artifact` is complete; does nothing if it is.

    Raises:
        RunError: training failed; the newest checkpoint is kept and the next run goes on from it.
    """
    if spec.artifact.done:
        reporter.say(f"{title}: trained already")
        return
    ensure_ray(cluster)
    from ray.exceptions import RayError
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    store = spec.artifact.store
    filesystem, root = store.arrow()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"spec": spec},
        scaling_config=ScalingConfig(
            num_workers=cluster.train_workers,
            use_gpu=cluster.gpus > 0,
            resources_per_worker={"CPU": cluster.train_cpus} | ({"GPU": float(cluster.gpus)} if cluster.gpus else {}),
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=f"{root}/{spec.artifact.key}",
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    claim = Claim(spec.artifact)
    claim.wait_for(reporter, title)
    if spec.artifact.done:
        return
    done = threading.Event()
    with reporter.bar(title, spec.schedule.steps, "steps") as bar:
        watcher = threading.Thread(target=_watch, args=(claim, bar, done), daemon=True)
        watcher.start()
        try:
            trainer.fit()
        except (TrainingFailedError, RayError) as error:
            cause = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise RunError(
                f"{title}: training failed ({cause.strip()}); checkpoints are kept, so run the same command again to go on"
            ) from error
        finally:
            done.set()
            watcher.join()
        bar.reach(spec.schedule.steps, bar.rate, f"loss {spec.artifact.info()['final_loss']:.4f}")
    store.delete(f"{spec.artifact.key}/{CHECKPOINTS}")
    store.delete(f"{spec.artifact.key}/{PROGRESS}")
    claim.release()


def _watch(claim: Claim, bar: Bar, done: threading.Event) -> None:
    while not done.wait(1.0):
        claim.renew()
        progress = read_progress(claim.artifact)
        if progress:
            bar.reach(progress["step"], progress["rate"], f"loss {progress['loss']:.4f}")


def read_progress(artifact: Artifact) -> dict[str, Any]:
    """Where a training stands: `step`, `steps`, `loss`, `rate` (steps/s), `at` (seconds since 1970); empty at first."""
    try:
        return artifact.read_json(PROGRESS)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _work(config: dict[str, Any]) -> None:
    """What every worker runs; Ray Train calls it again after a failure, and it goes on from the newest whole checkpoint."""
    spec: TrainSpec = config["spec"]
    torch.set_num_threads(spec.threads)
    accelerator = Accelerator(
        mixed_precision={"fp32": "no"}.get(spec.precision, spec.precision), cpu=not torch.cuda.is_available()
    )
    if spec.schedule.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size {spec.schedule.batch_size} is not divisible by {accelerator.num_processes} workers"
        )
    loop = TrainingLoop(spec, accelerator)
    loop.run()
    if accelerator.is_main_process:
        loop.finish()


class TrainingLoop:
    """One worker's training: its network, optimizer and EMA, and where it stands."""

    def __init__(self, spec: TrainSpec, accelerator: Accelerator) -> None:
        self.spec, self.accelerator = spec, accelerator
        schedule = spec.schedule
        self.recipe = spec.recipe(accelerator.device)
        self.raw = self.recipe.module.to(accelerator.device).train()
        # One process needs no gradient averaging, which is all that the wrapper adds.
        self.module = accelerator.prepare_model(self.raw, evaluation_mode=accelerator.num_processes == 1)
        self.optimizer = accelerator.prepare_optimizer(
            torch.optim.AdamW(self.raw.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
        )
        self.lr_scheduler = get_scheduler(
            "constant_with_warmup" if schedule.lr_schedule == "constant" else schedule.lr_schedule,
            self.optimizer.optimizer,
            num_warmup_steps=schedule.warmup_steps,
            num_training_steps=schedule.steps,
        )
        self.ema = (
            EMAModel(self.raw.parameters(), decay=schedule.ema_decay, foreach=True) if schedule.ema_decay else None
        )
        self.step = 0
        self.curve: dict[str, list[float]] = {"steps": [], "loss": [], "lr": []}
        self._told = time.monotonic()
        self._restore()

    def run(self, until: int | None = None) -> None:
        """Train to step `until`, by default the last one."""
        schedule, rank, world = self.spec.schedule, self.accelerator.process_index, self.accelerator.num_processes
        share = schedule.batch_size // world
        rows = slice(rank * share, (rank + 1) * share)
        every = max(1, schedule.steps // CURVE_POINTS)
        losses: list[torch.Tensor] = []
        began, first = time.monotonic(), self.step
        last = schedule.steps if until is None else until
        while self.step < last:
            losses.append(self._train_step(rows))
            self.step += 1
            if self.step % every == 0 or self.step == last:
                mean = float(self.accelerator.reduce(torch.stack(losses).mean(), reduction="mean"))
                losses.clear()
                for name, value in {"steps": self.step, "loss": mean, "lr": self.lr_scheduler.get_last_lr()[0]}.items():
                    self.curve[name].append(value)
                rate = (self.step - first) / (time.monotonic() - began)
                self._tell(mean, rate)
            if self.step % schedule.checkpoint_every == 0 and self.step < schedule.steps:
                self._checkpoint()

    def finish(self) -> None:
        """Export the network, its EMA where there is one, and mark the artifact as complete."""
        if self.ema:
            self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        artifact = self.spec.artifact
        with tempfile.TemporaryDirectory() as directory:
            info = self.recipe.export(Path(directory))
            artifact.store.put_dir(Path(directory), artifact.key)
        artifact.write_json(CURVE, self.curve)
        artifact.finish(steps=self.step, final_loss=self.curve["loss"][-1], **info)

    def _train_step(self, rows: slice) -> torch.Tensor:
        loss = self.recipe.loss(self.module, self.step, rows)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        if self.spec.schedule.grad_clip is not None:
            self.accelerator.clip_grad_norm_(self.raw.parameters(), self.spec.schedule.grad_clip)
        self.optimizer.step()
        self.lr_scheduler.step()
        if self.ema:
            self.ema.step(self.raw.parameters())
        return loss.detach()

    def _tell(self, loss: float, rate: float) -> None:
        if self.accelerator.is_main_process and time.monotonic() - self._told >= PROGRESS_EVERY_S:
            self._told = time.monotonic()
            progress = {
                "step": self.step,
                "steps": self.spec.schedule.steps,
                "loss": loss,
                "rate": rate,
                "at": time.time(),
            }
            self.spec.artifact.write_json(PROGRESS, progress)

    def _checkpoint(self) -> None:
        from ray import train
        from ray.train import Checkpoint, CheckpointUploadMode

        checkpoint = None
        if self.accelerator.is_main_process:
            directory = Path(tempfile.mkdtemp(prefix="side-ray-checkpoint-"))
            save_file(_whole(self.raw.state_dict()), directory / "model.safetensors")
            if self.ema:
                save_file(_whole(self._ema_tensors()), directory / "ema.safetensors")
            torch.save(
                {"optimizer": self.optimizer.state_dict(), "lr": self.lr_scheduler.state_dict()},
                directory / "optimizer.pt",
            )
            steps_of_ema = self.ema.optimization_step if self.ema else 0
            state = {"step": self.step, "curve": self.curve, "ema_steps": steps_of_ema}
            (directory / "state.json").write_text(json.dumps(state))
            checkpoint = Checkpoint.from_directory(str(directory))
        train.report(
            {"step": self.step},
            checkpoint=checkpoint,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def _restore(self) -> None:
        from ray import train

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as name:
            directory = Path(name)
            self.raw.load_state_dict(load_file(directory / "model.safetensors"))
            if self.ema:
                for name, tensor in load_file(directory / "ema.safetensors").items():
                    self.ema.shadow_params[int(name)].copy_(tensor)
            saved = torch.load(directory / "optimizer.pt", weights_only=True, map_location=self.accelerator.device)
            state = json.loads((directory / "state.json").read_text())
        self.optimizer.load_state_dict(saved["optimizer"])
        self.lr_scheduler.load_state_dict(saved["lr"])
        self.step, self.curve = state["step"], state["curve"]
        if self.ema:
            self.ema.optimization_step = state["ema_steps"]

    def _ema_tensors(self) -> dict[str, torch.Tensor]:
        assert self.ema is not None
        return {str(i): tensor for i, tensor in enumerate(self.ema.shadow_params)}


def _whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
