"""Logs a training: TensorBoard events in the artifact, gauges on Ray's metrics endpoint, a progress file for `status`."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from side_ray.execution.metrics import gauges
from side_ray.runs.run import PROGRESS, Artifact
from side_ray.storage.scratch import scratch

TENSORBOARD = "tensorboard"
GAUGES = {
    "step": "Finished steps of a training",
    "loss": "Mean training loss of the latest steps",
    "lr": "Learning rate",
    "images_per_second": "Images trained on per second, over all workers",
}
PROGRESS_EVERY_S = 2.0
PUBLISH_EVERY_S = 30.0


class TrainingLogger:
    """Logs on behalf of all workers; only the first worker has one. A background thread writes to storage, so that slow storage
    does not delay the steps.

    Args:
        artifact: where the events and the progress file are written.
        stage: value of the gauges' tag `stage`.
        first: the step at which training starts or resumes; TensorBoard discards earlier events from this step on.
    """

    def __init__(self, artifact: Artifact, stage: str, first: int) -> None:
        # Imported here because it is slow to load and the driver does not need it.
        from tensorboardX import SummaryWriter

        self.artifact, self.stage = artifact, stage
        self._scratch = ExitStack()
        self._events = self._scratch.enter_context(scratch())
        self._writer = SummaryWriter(str(self._events), purge_step=first)
        self._gauges = gauges("train", GAUGES, ("stage",))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training-logger")
        self._under_way: Future[None] | None = None
        self._progress_at = self._published_at = time.monotonic()

    def log_scalars(self, step: int, steps: int, values: dict[str, float], rate: float, images: int) -> None:
        """Log scalars at a step.

        Args:
            step: finished steps.
            steps: steps of the whole training.
            values: scalars by name, including `loss` and `lr`.
            rate: steps per second.
            images: images per step, over all workers.
        """
        scalars = {**values, "images_per_second": rate * images}
        for name, value in scalars.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        for name, gauge in self._gauges.items():
            gauge.set(step if name == "step" else scalars[name], {"stage": self.stage})
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_EVERY_S:
            progress = {"step": step, "steps": steps, "loss": values["loss"], "rate": rate, "at": time.time()}
            publish = now - self._published_at >= PUBLISH_EVERY_S
            if self._when_free(lambda: self._store(progress, publish)):
                self._progress_at = now
                self._published_at = now if publish else self._published_at

    def log_preview(self, step: int, values: dict[str, float], grid: np.ndarray) -> None:
        """Log a grid of samples, uint8 [H, W, C], and the measures of these samples by name."""
        self._writer.add_image("samples", grid if grid.shape[2] == 3 else grid.repeat(3, 2), step, dataformats="HWC")
        for name, value in values.items():
            self._writer.add_scalar(f"probe/{name}", value, step)
        self._published_at = 0.0

    def close(self) -> None:
        """Write the remaining events. Raises RunError if the storage fails."""
        self._writer.close()
        if self._under_way is not None:
            self._under_way.result()
        self._thread.shutdown()
        self._publish()
        self._scratch.close()

    def _when_free(self, work: Callable[[], None]) -> bool:
        """Start `work` in the background thread unless the previous work is still running; returns whether it was started."""
        if self._under_way is not None:
            if not self._under_way.done():
                return False
            self._under_way.result()
        self._under_way = self._thread.submit(work)
        return True

    def _store(self, progress: dict[str, Any], publish: bool) -> None:
        self.artifact.write_json(PROGRESS, progress)
        if publish:
            self._writer.flush()
            self._publish()

    def _publish(self) -> None:
        self.artifact.store.put_dir(self._events, f"{self.artifact.key}/{TENSORBOARD}")
