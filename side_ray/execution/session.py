"""Starts Ray once per command, and only when a stage has work for it."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from side_ray.config import ClusterSection
from side_ray.errors import RunError, UserError, one_line
from side_ray.runs.shards import DamagedShard

Result = TypeVar("Result")

OBJECT_STORE_BYTES = 200 * 2**20
"""Bulk data never passes through the object store, so a laptop need not reserve a third of its memory for it."""


def ensure_ray(cluster: ClusterSection) -> None:
    """Attach to the configured, submitted or already started Ray cluster, or start one on this machine.

    A Ray started here keeps token authentication on: its ports listen on every interface.
    """
    # Ray warns at import about a default that it will change for zero-GPU tasks.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How long a thread spins at a barrier before it sleeps. On two cores a training step of the digits took 53 ms with
    # libgomp's own count, 60 ms with this one, 90 ms sleeping at once; beside two other busy processes over 1,000, 170-300
    # and 140 ms.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before the import, where Ray reads it
    # Ray Data hands its actors' arguments over by reference, of which Ray's core warns on the terminal for each pool; the
    # driver keeps those references for as long as the pool lives.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if not ray.is_initialized():
        with _silent_stderr():
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                )
    _quiet()


def shut_down() -> None:
    """End the Ray that this process started or leave the one it attached to; does nothing where none is."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's core writes to the terminal past Python that it took the log level from the environment."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def _quiet() -> None:
    """Leave the terminal to side-ray's own progress; Ray's logs stay in its session directory."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")


def run_remotely(
    function: Callable[..., Result], *arguments: Any, title: str, cpus: float, gpus: float, retries: int
) -> Result:
    """Run a function in one Ray task.

    Args:
        title: names the work in an error.
        retries: how often the task is started again when its process dies; -1 = without limit.

    Raises:
        UserError, DamagedShard: those of the function.
        RunError: the process died too often, or the function raised anything else.
    """
    import ray
    from ray.exceptions import RayError

    task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
    try:
        result: Result = ray.get(task.remote(*arguments))
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, (UserError, DamagedShard)):
            raise cause from None
        raise RunError(f"{title} failed ({one_line(error)}); run the same command again to retry") from error
    return result
