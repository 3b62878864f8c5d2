"""The loop of a training worker: optimizer steps, EMA weights, checkpoints, resumption, logging, and the final export."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from side_ray.errors import UserError
from side_ray.registry import Carrier
from side_ray.runs.run import Artifact
from side_ray.storage.scratch import scratch
from side_ray.training.checkpoints import Checkpoints
from side_ray.training.logger import TrainingLogger

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

CURVE = "curve.json"
CURVE_POINTS = 200
LOG_EVERY = 100
"""Log the loss at least every so many steps. Logging costs one all-reduce between the workers."""


class Diverged(UserError):
    """A training whose loss or weights are NaN or infinite. The same training would fail again."""


class Recipe(ABC):
    """What is trained: the network, its batches, its loss and its export. Every worker builds its own."""

    module: nn.Module
    frozen: frozenset[str] = frozenset()
    """Names in the module's state dict of what is not trained, and what every new recipe has alike: checkpoints leave it out."""

    @abstractmethod
    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """The part `rows` of the batch of `step`, as tensors of equal length. Called for consecutive steps.

        The result depends on the arguments alone: all random numbers are drawn for the whole batch from (seed, step). A resumed
        training therefore sees the same batches as an uninterrupted one, and W workers together the same as one worker.
        """

    @abstractmethod
    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        """Mean loss (a scalar) over the rows of `parts`: the tensors of `draw`, or the same slice of each."""

    @abstractmethod
    def export(self, directory: Path) -> dict[str, Any]:
        """Write the trained `module` into an empty directory; returns facts about it for `_done.json`."""

    def preview(self) -> tuple[dict[str, float], np.ndarray]:
        """Measures by name and a grid of samples, uint8 [H, W, C], of `module`, which has the EMA weights during this call."""
        raise NotImplementedError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    `batch_size` is the number of images per step over all workers. A worker processes its share in `accumulation` parts. A
    killed training loses at most `checkpoint_every` steps. `ema_decay` is the decay of the EMA weights (None = no EMA); with
    `ema_power` the decay at a step is 1 − (1 + step / `ema_inv_gamma`)^−`ema_power`, at most `ema_decay`. A preview is logged
    every `preview_every` steps (None = never).
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    checkpoint_every: int
    lr_schedule: str = "constant"
    warmup_steps: int = 0
    accumulation: int = 1
    grad_clip: float | None = None
    ema_decay: float | None = None
    ema_power: float | None = None
    ema_inv_gamma: float = 1.0
    preview_every: int | None = None


@dataclass(frozen=True)
class TrainSpec(Carrier):
    """Everything that a training worker needs, by path. `title` is the name of the training in messages and metrics, `lr_key`
    the config key of its learning rate."""

    artifact: Artifact
    recipe: Callable[[torch.device], Recipe]
    schedule: Schedule
    precision: str
    threads: int
    title: str = "training"
    lr_key: str = "dpm.lr"


class TrainingLoop:
    """The state of one training worker: network, optimizer, EMA weights, step and loss curve."""

    def __init__(self, spec: TrainSpec) -> None:
        # These take seconds to import: only in the processes that train.
        from accelerate import Accelerator
        from diffusers.optimization import get_scheduler

        schedule = spec.schedule
        self.spec = spec
        self.accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(spec.precision, spec.precision),
            cpu=not torch.cuda.is_available(),
            gradient_accumulation_steps=schedule.accumulation,
        )
        self.recipe = spec.recipe(self.accelerator.device)
        self.raw = self.recipe.module.to(self.accelerator.device).train()
        # With one process the wrapper is skipped: all it adds is gradient averaging.
        self.module = self.accelerator.prepare_model(self.raw, evaluation_mode=self.accelerator.num_processes == 1)
        # On CPUs torch's default loops over the parameters: same bits, but 5.2 ms a step instead of 3.7 ms for the digits' U-Net.
        adamw = torch.optim.AdamW(
            self.raw.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay, foreach=True
        )
        self.optimizer = self.accelerator.prepare_optimizer(adamw)
        self.lr_scheduler = get_scheduler(
            "constant_with_warmup" if schedule.lr_schedule == "constant" else schedule.lr_schedule,
            self.optimizer.optimizer,
            num_warmup_steps=schedule.warmup_steps,
            num_training_steps=schedule.steps,
        )
        self.ema = _ema(self.raw, schedule) if schedule.ema_decay else None
        self.step = 0
        self.resumed: list[int] = []
        self.curve: dict[str, list[float]] = {"steps": [], "loss": [], "lr": []}
        self._since_curve = [0.0, 0]
        self._losses: list[torch.Tensor] = []
        self.checkpoints = Checkpoints(spec.artifact)
        self._restore()
        self.logger = TrainingLogger(spec.artifact, spec.title, self.step) if self.accelerator.is_main_process else None

    def run(self, until: int | None = None) -> None:
        """Train to step `until`, by default the last one.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        schedule = self.spec.schedule
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # The number of workers need not divide the batch: an elastic group may have any size.
        rows = slice(rank * schedule.batch_size // world, (rank + 1) * schedule.batch_size // world)
        curve_every, save_every = max(1, schedule.steps // CURVE_POINTS), checkpoint_steps(schedule.checkpoint_every)
        began, first = time.monotonic(), self.step
        last = schedule.steps if until is None else until
        while self.step < last:
            self._losses.append(self._train_step(rows))
            self.step += 1
            at_curve = self.step % curve_every == 0 or self.step == last
            save = self.step % save_every == 0 and self.step < schedule.steps
            if at_curve or save or self.step % LOG_EVERY == 0:
                self._log(at_curve, (self.step - first) / (time.monotonic() - began))
            if save:
                self._save(wait=save_every == schedule.checkpoint_every)
            if schedule.preview_every and self.step % schedule.preview_every == 0:
                self._preview()

    def finish(self) -> None:
        """Export the network, with its EMA weights if it has any, and mark the artifact as complete. Raises Diverged where its
        weights are NaN or infinite."""
        self.checkpoints.wait()
        if not all(bool(torch.isfinite(each).all()) for each in self.raw.state_dict().values()):
            raise self._diverged("the weights are not finite after", self.step)
        if self.logger is None:
            return
        if self.ema:
            self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        artifact = self.spec.artifact
        with scratch() as directory:
            info = self.recipe.export(directory)
            artifact.put_dir(directory)
        artifact.write_json(CURVE, self.curve, listed=False)
        self.logger.close()
        facts = {"steps": self.step, "final_loss": self.curve["loss"][-1], "resumed_at": self.resumed}
        artifact.finish(**facts, workers=self.accelerator.num_processes, **info)

    def _train_step(self, rows: slice) -> torch.Tensor:
        """One optimizer step. Returns the mean loss of `rows`, weighted so that its mean over workers is that of the batch."""
        accelerator, pieces = self.accelerator, self.spec.schedule.accumulation
        drawn = self.recipe.draw(self.step, rows)
        count = rows.stop - rows.start
        bounds = [piece * count // pieces for piece in range(pieces + 1)]
        even = self.spec.schedule.batch_size / accelerator.num_processes / pieces
        total = torch.zeros((), device=accelerator.device)
        self.optimizer.zero_grad(set_to_none=True)
        for start, stop in pairwise(bounds):
            with accelerator.accumulate(self.module):
                loss = self.recipe.loss(self.module, *(part[start:stop] for part in drawn))
                loss = loss * ((stop - start) / even)
                accelerator.backward(loss)
                total += loss.detach() / pieces
                if accelerator.sync_gradients and self.spec.schedule.grad_clip is not None:
                    accelerator.clip_grad_norm_(self.raw.parameters(), self.spec.schedule.grad_clip)
                self.optimizer.step()
        self.lr_scheduler.step()
        if self.ema:
            self.ema.step(self.raw.parameters())
        return total

    def _log(self, at_curve: bool, rate: float) -> None:
        """Log the mean loss of the steps since the last call; with `at_curve` add a point to the curve. `rate` is in steps/s."""
        count = len(self._losses)
        losses = torch.stack(self._losses)
        mean = float(self.accelerator.reduce(losses.mean(), reduction="mean"))
        if not math.isfinite(mean):
            bad = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
            raise self._diverged(f"the loss is {mean} since", self.step - count + (bad[0] if bad else 0) + 1)
        self._losses.clear()
        lr = self.lr_scheduler.get_last_lr()[0]
        self._since_curve = [self._since_curve[0] + mean * count, self._since_curve[1] + count]
        if at_curve:
            point = {"steps": self.step, "loss": self._since_curve[0] / self._since_curve[1], "lr": lr}
            for name, value in point.items():
                self.curve[name].append(value)
            self._since_curve = [0.0, 0]
        if self.logger:
            schedule = self.spec.schedule
            self.logger.log_scalars(self.step, schedule.steps, {"loss": mean, "lr": lr}, rate, schedule.batch_size)

    def _diverged(self, what: str, step: int) -> "Diverged":
        return Diverged(
            f"{self.spec.title}: {what} step {step}; lower {self.spec.lr_key} (now {self.spec.schedule.lr:g})"
        )

    def _preview(self) -> None:
        if self.logger is None:
            return
        if self.ema:
            self.ema.store(self.raw.parameters())
            self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        self.logger.log_preview(self.step, *self.recipe.preview())
        self.raw.train()
        if self.ema:
            self.ema.restore(self.raw.parameters())

    def _save(self, wait: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "model": {name: value for name, value in self.raw.state_dict().items() if name not in self.recipe.frozen},
            "ema": self.ema.shadow_params if self.ema else [],
            "ema_steps": self.ema.optimization_step if self.ema else 0,
            "optimizer": self.optimizer.state_dict(),
            "lr": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "curve": self.curve,
            "since_curve": self._since_curve,
            "resumed": self.resumed,
        }
        self.checkpoints.begin(self.step, state)
        if wait:
            self.checkpoints.wait()

    def _restore(self) -> None:
        """Resume from the newest checkpoint that can be read; the first worker chooses it for all."""
        from accelerate.utils import broadcast

        found = self.checkpoints.newest() if self.accelerator.is_main_process else None
        chosen = torch.tensor(found[0] if found else -1, device=self.accelerator.device)
        step = int(broadcast(chosen)) if self.accelerator.num_processes > 1 else int(chosen)
        if step < 0:
            return
        state = found[1] if found else self.checkpoints.load(step)
        # Checkpoints of earlier versions hold what is not trained as well.
        loaded = self.raw.load_state_dict(state["model"], strict=False)
        if loaded.unexpected_keys or not set(loaded.missing_keys) <= self.recipe.frozen:
            raise RuntimeError(f"the checkpoint of step {step} is of another network")
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr"])
        if self.ema:
            for shadow, saved in zip(self.ema.shadow_params, state["ema"], strict=True):
                shadow.copy_(saved)
            self.ema.optimization_step = state["ema_steps"]
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.curve, self._since_curve = step, state["curve"], state["since_curve"]
        self.resumed = [*state["resumed"], step]


def checkpoint_steps(every: int) -> int:
    """Steps between checkpoints, such that a killed training loses at most `every` steps: half of it, since the newest
    checkpoint may still be being written. With `every` = 1 the loop waits for each checkpoint."""
    return max(1, every // 2)


def _ema(module: nn.Module, schedule: Schedule) -> "EMAModel":
    from diffusers.training_utils import EMAModel

    powered = schedule.ema_power is not None
    return EMAModel(
        module.parameters(),
        decay=schedule.ema_decay,
        use_ema_warmup=powered,
        **({"power": schedule.ema_power, "inv_gamma": schedule.ema_inv_gamma} if powered else {}),
        foreach=True,
    )
