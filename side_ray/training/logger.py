"""Shows a training to people: events for TensorBoard beside the artifact, gauges on Ray's dashboard, a file for `status`."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from side_ray.execution.metrics import gauges
from side_ray.runs.run import PROGRESS, Artifact

TENSORBOARD = "tensorboard"
GAUGES = {
    "step": "Steps that a training has done",
    "loss": "Mean training loss of the last steps",
    "lr": "Learning rate",
    "images_per_second": "Images trained on per second, over all workers",
}
PROGRESS_EVERY_S = 2.0
PUBLISH_EVERY_S = 30.0


class TrainingLogger:
    """What one worker, the first, tells of the training. Storage is written in a thread of its own: a slow one must not hold
    up the steps.

    Args:
        stage: named in the gauges' tag.
        first: the step that the training starts or resumes at; TensorBoard forgets what an earlier worker told beyond it.
    """

    def __init__(self, artifact: Artifact, stage: str, first: int) -> None:
        # Imported late: the driver has no use for it and does not wait for what it loads.
        from tensorboardX import SummaryWriter

        self.artifact, self.stage = artifact, stage
        self._events = tempfile.TemporaryDirectory(prefix="side-ray-events-")
        self._writer = SummaryWriter(self._events.name, purge_step=first)
        self._gauges = gauges("train", GAUGES, ("stage",))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training-logger")
        self._under_way: Future[None] | None = None
        self._progress_at = self._published_at = time.monotonic()

    def tell(self, step: int, steps: int, values: dict[str, float], rate: float, images: int) -> None:
        """Show loss and the like.

        Args:
            values: scalars by name; `loss` and `lr` are among them.
            rate: steps per second.
            images: images per step, over all workers.
        """
        shown = {**values, "images_per_second": rate * images}
        for name, value in shown.items():
            self._writer.add_scalar(f"train/{name}", value, step)
        for name, gauge in self._gauges.items():
            gauge.set(step if name == "step" else shown[name], {"stage": self.stage})
        now = time.monotonic()
        if now - self._progress_at >= PROGRESS_EVERY_S:
            progress = {"step": step, "steps": steps, "loss": values["loss"], "rate": rate, "at": time.time()}
            publish = now - self._published_at >= PUBLISH_EVERY_S
            if self._when_free(lambda: self._store(progress, publish)):
                self._progress_at = now
                self._published_at = now if publish else self._published_at

    def show(self, step: int, values: dict[str, float], grid: np.ndarray) -> None:
        """Show a grid of samples, uint8 [H, W, C], and what was measured of them."""
        self._writer.add_image("samples", grid if grid.shape[2] == 3 else grid.repeat(3, 2), step, dataformats="HWC")
        for name, value in values.items():
            self._writer.add_scalar(f"probe/{name}", value, step)
        self._published_at = 0.0

    def close(self) -> None:
        """Publish what is left. Raises RunError if the storage cannot take it."""
        self._writer.close()
        if self._under_way is not None:
            self._under_way.result()
        self._thread.shutdown()
        self._publish()
        self._events.cleanup()

    def _when_free(self, work: Callable[[], None]) -> bool:
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
        self.artifact.store.put_dir(Path(self._events.name), f"{self.artifact.key}/{TENSORBOARD}")
