"""Starts Ray once per command, when the first stage needs it."""

import logging
import os
import platform
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from side_ray.config import ClusterSection
from side_ray.errors import Damaged, RunError, UserError, one_line

Result = TypeVar("Result")

OBJECT_STORE_BYTES = 200 * 2**20
"""Bulk data never passes through the object store, so Ray's default of about a third of a laptop's memory is not needed."""


def ensure_ray(cluster: ClusterSection) -> None:
    """Connect to the Ray cluster of the config or of RAY_ADDRESS; if there is neither, start Ray on this machine.

    A Ray started here uses token authentication, because its ports listen on every interface.
    """
    # Silences a warning at import about a future default for zero-GPU tasks.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # How long an OpenMP thread spins at a barrier before it sleeps. Time of a training step of the digits on two cores with
    # libgomp's default, this value, and no spinning: 53, 60 and 90 ms; beside two other busy processes: over 1,000, 170-300
    # and 140 ms.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it at import
    # Ray Data passes its actors' arguments by reference, and Ray's core prints a warning about that for each pool. It does not
    # apply: the driver keeps the references as long as the pool lives.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if not ray.is_initialized():
        with _silent_stderr():
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                _make_token_private()
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=OBJECT_STORE_BYTES,
                )
                # Ray opens its directory of logs and sockets to every user of the machine.
                Path(ray._private.worker._global_node.get_session_dir_path()).chmod(0o700)
    _quiet()


def machine() -> dict[str, Any]:
    """What runs the audit: `nodes`, `cpus` and `gpus` of the Ray cluster, or of this machine before Ray is started, and the
    name of this machine's processor, `cpu`."""
    import ray

    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ())
        if line.startswith("model name")
    ]
    found = {"nodes": 1, "cpus": os.cpu_count(), "gpus": 0, "cpu": names[0] if names else platform.machine()}
    if ray.is_initialized():
        total = ray.cluster_resources()
        alive = sum(node["Alive"] for node in ray.nodes())
        found |= {"nodes": alive, "cpus": int(total.get("CPU", 0)), "gpus": int(total.get("GPU", 0))}
    return found


def _make_token_private() -> None:
    """Make the token with which processes of this user join the Ray that is started here, or close it to other users."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    with suppress(OSError, RuntimeError):  # Ray says what is wrong
        path = Path.home() / ".ray" / "auth_token"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        except FileExistsError:
            path.chmod(0o600)


def shut_down() -> None:
    """Stop the Ray that this process started, or disconnect from the cluster; does nothing if neither happened."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@contextmanager
def own_ray() -> Iterator[None]:
    """Stop at the end the Ray that the block started; one that this process was connected to before is left alone."""
    before = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    try:
        yield
    finally:
        if not before:
            shut_down()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Silence stderr at the level of file descriptors: Ray's C++ core prints that it read the log level from the environment."""
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
    """Turn off Ray's output on the terminal, which shows side-ray's own progress. Ray's logs stay in its session directory."""
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
    """Run a function in one Ray task and return its result.

    Args:
        title: name of the work in error messages.
        retries: how often Ray restarts the task if its process dies; -1 = no limit.

    Raises:
        UserError, Damaged: raised by the function.
        RunError: the process died more than `retries` times, or the function raised another exception.
    """
    import ray
    from ray.exceptions import RayError

    task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
    try:
        result: Result = ray.get(task.remote(*arguments))
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, (UserError, Damaged)):
            raise cause from None
        raise RunError(f"{title} failed ({one_line(error)}); run the same command again to retry") from error
    return result
