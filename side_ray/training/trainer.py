"""Trains networks with Ray Train, resuming from the newest readable checkpoint in the run's storage."""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch

from side_ray.config import ClusterSection
from side_ray.config.cluster import Workers
from side_ray.errors import Damaged, RunError
from side_ray.execution.audit import Audit
from side_ray.execution.node.lease import Lease
from side_ray.execution.session import check_room, ensure_ray
from side_ray.runs.run import PROGRESS, read_progress
from side_ray.runs.shards import ShardSet
from side_ray.storage.scratch import scratch
from side_ray.training.checkpoints import remove_checkpoints
from side_ray.training.loop import Diverged, TrainingLoop, TrainSpec

DIVERGED = "_diverged.txt"
"""Why a training ended, from a worker to the driver."""

DAMAGED = "_damaged.json"
"""In the artifact: the damage to its input that a worker has found."""


def train(
    audit: Audit,
    *specs: TrainSpec,
    workers: Workers | None = None,
    made: Callable[[TrainSpec], Iterable[ShardSet]] = lambda spec: (),
) -> None:
    """Train one network after the other, in the same workers, until each `spec.artifact` is complete; does nothing where it is.

    Args:
        workers: number of workers that share each batch; default `cluster.train_workers`.
        made: the samples that are made with the network of a spec. Where some exist already, it was lost, and that is said.

    Raises:
        Diverged: the loss is NaN or infinite.
        Damaged: files that it reads are damaged.
        RunError: training failed. Checkpoints are kept, and re-running resumes from the newest one.
    """
    missing = []
    for spec in specs:
        if audit.has(spec.artifact):
            remove_checkpoints(spec.artifact)
            audit.reporter.say(f"{spec.title}: already trained")
        else:
            missing.append(spec)
    if not missing:
        return
    cluster = audit.config.cluster
    lost = [spec.title for spec in missing if any(each.present() for each in made(spec))]
    ensure_ray(cluster)
    count = workers or cluster.train_workers
    least = count if isinstance(count, int) else count[0]
    if waiting := check_room(cluster, "train_cpus", cluster.gpus, least, "train_workers"):
        audit.reporter.warn(waiting)
    _damage_of(missing)  # of a driver that was killed
    leases = [Lease(spec.artifact) for spec in missing]
    for spec, lease in zip(missing, leases, strict=True):
        lease.wait_for(audit.reporter, spec.title)
    # Another driver may have finished some of them while this one waited.
    missing, leases = (
        [spec for spec in missing if not spec.artifact.done],
        [each for each in leases if not each.artifact.done],
    )
    if not missing:
        return
    done = threading.Event()
    follower = threading.Thread(target=_follow, args=(missing, leases, audit, done), daemon=True)
    follower.start()
    try:
        _fit(missing, cluster, count)
    finally:
        done.set()
        follower.join()
        for lease in leases:
            if lease.artifact.done:
                remove_checkpoints(lease.artifact)
                lease.artifact.store.delete(f"{lease.artifact.key}/{PROGRESS}")
                lease.release()
        if (damage := _damage_of(missing)) is not None:
            raise damage from None
    for title in lost:
        audit.reporter.warn(
            f"{title}: the network was lost and was trained again, and the samples that it made are kept; on other hardware the "
            "new one may differ from it in the last bits, and so may a sample that is made again"
        )


def _fit(specs: list[TrainSpec], cluster: ClusterSection, workers: Workers) -> None:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    # Ray Train itself stores only a few bytes, which are not needed again: the loop writes its own checkpoints.
    with scratch() as directory:
        trainer = TorchTrainer(
            # A `train_loop_config` would be read in the controller too, which would import torch and diffusers for it.
            partial(_work, specs),
            scaling_config=ScalingConfig(
                num_workers=workers if isinstance(workers, int) else (workers[0], workers[1]),
                use_gpu=cluster.gpus > 0,
                resources_per_worker={"CPU": cluster.train_cpus}
                | ({"GPU": float(cluster.gpus)} if cluster.gpus else {}),
            ),
            run_config=RunConfig(
                name="train",
                storage_path=str(directory),
                failure_config=FailureConfig(max_failures=cluster.train_failures),
            ),
        )
        # Ray's handler of SIGINT would end this process with exit code 0, in later stages too.
        trainer._register_sigint_handler = lambda controller: None
        try:
            trainer.fit()
        except (TrainingFailedError, RayError) as error:
            cause = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            failed = next((spec for spec in specs if not spec.artifact.done), specs[-1])
            raise RunError(
                f"{failed.title}: training failed ({cause.strip()}); checkpoints are kept: run the same command again to "
                "resume"
            ) from error
    for spec in specs:
        key = f"{spec.artifact.key}/{DIVERGED}"
        if spec.artifact.store.exists(key):
            message = spec.artifact.store.read(key).decode()
            spec.artifact.store.delete(key)
            raise Diverged(message)


def _follow(specs: Sequence[TrainSpec], leases: Sequence[Lease], audit: Audit, done: threading.Event) -> None:
    """Show one bar after the other and renew the leases until all networks are trained or `done` is set."""
    for spec in specs:
        with audit.reporter.bar(spec.title, spec.schedule.steps, "steps") as bar:
            while not spec.artifact.done:
                ended = done.wait(1.0)
                for lease in leases:
                    lease.renew()
                if progress := read_progress(spec.artifact):
                    bar.update(progress["step"], progress["rate"], f"loss {progress['loss']:.4f}")
                if ended and not spec.artifact.done:
                    return
            bar.update(spec.schedule.steps, bar.rate, f"loss {spec.artifact.info()['final_loss']:.4f}")


def _work(specs: Sequence[TrainSpec]) -> None:
    """Runs in every worker. Ray Train calls it again after a failure, and it resumes from the newest readable checkpoint."""
    for spec in specs:
        if spec.artifact.store.exists(f"{spec.artifact.key}/{DAMAGED}"):
            return  # trying again does not help: the driver has it made again
        if spec.artifact.done:
            continue
        torch.set_num_threads(spec.threads)
        try:
            loop = TrainingLoop(spec)
            loop.run()
            loop.finish()
        except Diverged as error:
            # Ray Train would retry after an exception; all workers come here, since they share the loss.
            spec.artifact.store.write(f"{spec.artifact.key}/{DIVERGED}", str(error).encode())
            return
        except Damaged as damage:
            spec.artifact.write_json(DAMAGED, {"keys": damage.keys, "reason": damage.reason, "also": damage.also})
            raise


def _damage_of(specs: Iterable[TrainSpec]) -> Damaged | None:
    """The damage to their input that a worker has found, which is forgotten."""
    damage = None
    for artifact in (spec.artifact for spec in specs):
        try:
            found = artifact.read_json(DAMAGED)
            damage = damage or Damaged(found["keys"], found["reason"], found["also"])
        except FileNotFoundError:
            continue
        except (Damaged, KeyError, TypeError):
            pass
        artifact.store.delete(f"{artifact.key}/{DAMAGED}")
    return damage
