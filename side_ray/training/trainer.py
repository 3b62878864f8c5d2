"""Trains one network by Ray Train, with checkpoints in the run's storage, from the newest whole one of which it resumes."""

import tempfile
import threading
from typing import Any

import torch

from side_ray.config import ClusterSection
from side_ray.errors import RunError
from side_ray.execution.lease import Claim
from side_ray.execution.progress import Bar, Reporter
from side_ray.execution.session import ensure_ray
from side_ray.runs.run import PROGRESS, read_progress
from side_ray.training.checkpoints import leftovers
from side_ray.training.loop import TrainingLoop, TrainSpec


def train(spec: TrainSpec, cluster: ClusterSection, reporter: Reporter) -> None:
    """Train until `spec.artifact` is complete; does nothing if it is.

    Raises:
        RunError: training failed; the newest checkpoint is kept and the next run goes on from it.
    """
    title = spec.title
    if spec.artifact.done:
        leftovers(spec.artifact)
        reporter.say(f"{title}: trained already")
        return
    ensure_ray(cluster)
    claim = Claim(spec.artifact)
    claim.wait_for(reporter, title)
    if spec.artifact.done:
        return
    done = threading.Event()
    with reporter.bar(title, spec.schedule.steps, "steps") as bar:
        watcher = threading.Thread(target=_watch, args=(claim, bar, done), daemon=True)
        watcher.start()
        try:
            _fit(spec, cluster)
        finally:
            done.set()
            watcher.join()
        bar.reach(spec.schedule.steps, bar.rate, f"loss {spec.artifact.info()['final_loss']:.4f}")
    leftovers(spec.artifact)
    spec.artifact.store.delete(f"{spec.artifact.key}/{PROGRESS}")
    claim.release()


def _fit(spec: TrainSpec, cluster: ClusterSection) -> None:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    workers = cluster.train_workers
    # What Ray Train itself stores is a few bytes that nobody reads again: checkpoints are the loop's own.
    with tempfile.TemporaryDirectory(prefix="side-ray-train-", ignore_cleanup_errors=True) as scratch:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"spec": spec},
            scaling_config=ScalingConfig(
                num_workers=workers if isinstance(workers, int) else (workers[0], workers[1]),
                use_gpu=cluster.gpus > 0,
                resources_per_worker={"CPU": cluster.train_cpus}
                | ({"GPU": float(cluster.gpus)} if cluster.gpus else {}),
            ),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=cluster.train_failures),
            ),
        )
        try:
            trainer.fit()
        except (TrainingFailedError, RayError) as error:
            cause = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise RunError(
                f"{spec.title}: training failed ({cause.strip()}); checkpoints are kept, so run the same command again to "
                "go on"
            ) from error


def _watch(claim: Claim, bar: Bar, done: threading.Event) -> None:
    while not done.wait(1.0):
        claim.renew()
        progress = read_progress(claim.artifact)
        if progress:
            bar.reach(progress["step"], progress["rate"], f"loss {progress['loss']:.4f}")


def _work(config: dict[str, Any]) -> None:
    """What every worker runs; Ray Train calls it again after a failure, and it goes on from the newest whole checkpoint."""
    spec: TrainSpec = config["spec"]
    torch.set_num_threads(spec.threads)
    loop = TrainingLoop(spec)
    loop.run()
    loop.finish()
