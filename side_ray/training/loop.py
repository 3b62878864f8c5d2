"""What a training worker does: steps, the averaged weights, checkpoints to resume from, and the export at the end."""

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from side_ray.registry import Carrier
from side_ray.runs.run import Artifact
from side_ray.training.checkpoints import Checkpoints
from side_ray.training.logger import TrainingLogger

CURVE = "curve.json"
CURVE_POINTS = 200
TELL_EVERY = 100
"""Most steps between two looks at the loss, which costs the workers a word with each other."""


class Recipe(ABC):
    """What is trained and on what. Made anew in every worker."""

    module: nn.Module

    @abstractmethod
    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, ...]:
        """What `rows` of the batch of `step` consist of, tensors of equal length; asked for step by step.

        A function of its arguments: every random choice is drawn for (seed, step) over the whole batch, so that a resumed
        training sees what an undisturbed one sees, and W workers with a W-th of the batch each see what one worker sees.
        """

    @abstractmethod
    def loss(self, module: nn.Module, *parts: torch.Tensor) -> torch.Tensor:
        """Mean loss over what was drawn, or over some of its rows."""

    @abstractmethod
    def export(self, directory: Path) -> dict[str, Any]:
        """Write the trained `module` into an empty directory and return what is worth knowing of it."""

    def watch(self) -> tuple[dict[str, float], np.ndarray]:
        """Measures of `module`, which has the averaged weights now, and a grid of its samples, uint8 [H, W, C]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    `batch_size` counts the images of one step over all workers; `accumulation` is the number of parts that a worker runs its
    share in; a kill costs at most `checkpoint_every` steps. The averaged weights have the decay `ema_decay` (None = there are
    none), or with `ema_power` 1 − (1 + step / `ema_inv_gamma`)^−power up to it.
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
    watch_every: int | None = None


@dataclass(frozen=True)
class TrainSpec(Carrier):
    """Everything that a training worker needs, by path. `title` names the training where people see it."""

    artifact: Artifact
    recipe: Callable[[torch.device], Recipe]
    schedule: Schedule
    precision: str
    threads: int
    title: str = "training"


class TrainingLoop:
    """One worker's training: its network, optimizer and averaged weights, and where it stands."""

    def __init__(self, spec: TrainSpec) -> None:
        schedule = spec.schedule
        self.spec = spec
        self.accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(spec.precision, spec.precision),
            cpu=not torch.cuda.is_available(),
            gradient_accumulation_steps=schedule.accumulation,
        )
        self.recipe = spec.recipe(self.accelerator.device)
        self.raw = self.recipe.module.to(self.accelerator.device).train()
        # One process needs no gradient averaging, which is all that the wrapper adds.
        self.module = self.accelerator.prepare_model(self.raw, evaluation_mode=self.accelerator.num_processes == 1)
        # On CPUs torch's default is a loop over the parameters, of the same bits: 5.2 ms a step of the digits' U-Net for 3.7.
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
        """Train to step `until`, by default the last one."""
        schedule = self.spec.schedule
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        # Worker numbers need not divide the batch: an elastic group may have any size.
        rows = slice(rank * schedule.batch_size // world, (rank + 1) * schedule.batch_size // world)
        every, due = max(1, schedule.steps // CURVE_POINTS), checkpoint_steps(schedule.checkpoint_every)
        began, first = time.monotonic(), self.step
        last = schedule.steps if until is None else until
        while self.step < last:
            self._losses.append(self._train_step(rows))
            self.step += 1
            at_curve = self.step % every == 0 or self.step == last
            saved = self.step % due == 0 and self.step < schedule.steps
            if at_curve or saved or self.step % TELL_EVERY == 0:
                self._tell(at_curve, (self.step - first) / (time.monotonic() - began))
            if saved:
                self._save(wait=due == schedule.checkpoint_every)
            if schedule.watch_every and self.step % schedule.watch_every == 0:
                self._watch()

    def finish(self) -> None:
        """Export the network, with its averaged weights where there are any, and mark the artifact as complete."""
        self.checkpoints.wait()
        if self.logger is None:
            return
        if self.ema:
            self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        artifact = self.spec.artifact
        with tempfile.TemporaryDirectory() as directory:
            info = self.recipe.export(Path(directory))
            artifact.store.put_dir(Path(directory), artifact.key)
        artifact.write_json(CURVE, self.curve)
        self.logger.close()
        told = {"steps": self.step, "final_loss": self.curve["loss"][-1], "resumed_at": self.resumed}
        artifact.finish(**told, workers=self.accelerator.num_processes, **info)

    def _train_step(self, rows: slice) -> torch.Tensor:
        """One optimizer step; the mean loss of this worker's rows, weighted so that the mean over workers is the batch's."""
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

    def _tell(self, at_curve: bool, rate: float) -> None:
        count = len(self._losses)
        mean = float(self.accelerator.reduce(torch.stack(self._losses).mean(), reduction="mean"))
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
            self.logger.tell(self.step, schedule.steps, {"loss": mean, "lr": lr}, rate, schedule.batch_size)

    def _watch(self) -> None:
        if self.logger is None:
            return
        if self.ema:
            self.ema.store(self.raw.parameters())
            self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        self.logger.show(self.step, *self.recipe.watch())
        self.raw.train()
        if self.ema:
            self.ema.restore(self.raw.parameters())

    def _save(self, wait: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "model": self.raw.state_dict(),
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
        """Go on from the newest checkpoint that can be read, which the first worker chooses for all."""
        found = self.checkpoints.newest() if self.accelerator.is_main_process else None
        chosen = torch.tensor(found[0] if found else -1, device=self.accelerator.device)
        step = int(broadcast(chosen)) if self.accelerator.num_processes > 1 else int(chosen)
        if step < 0:
            return
        state = found[1] if found else self.checkpoints.load(step)
        self.raw.load_state_dict(state["model"])
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
    """Steps between checkpoints, so that a kill costs at most `every`: the newest may still be under way, and the one before
    it must do. With an interval of one step each is waited for."""
    return max(1, every // 2)


def _ema(module: nn.Module, schedule: Schedule) -> EMAModel:
    powered = schedule.ema_power is not None
    return EMAModel(
        module.parameters(),
        decay=schedule.ema_decay,
        use_ema_warmup=powered,
        **({"power": schedule.ema_power, "inv_gamma": schedule.ema_inv_gamma} if powered else {}),
        foreach=True,
    )
