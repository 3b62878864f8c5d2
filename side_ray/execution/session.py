"""Starts Ray once per command, when the first stage needs it."""

import logging
import os
import platform
import secrets
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from side_ray.config import ClusterSection
from side_ray.errors import Damaged, RunError, UserError, one_line
from side_ray.execution.node.memory import forget_dead
from side_ray.execution.node.stopping import SIGNALS, Process, descendants, start_time
from side_ray.storage.scratch import scratch

Result = TypeVar("Result")

_temporary = ExitStack()
"""The directory of the Ray that this process has started."""
LONGEST_TEMPORARY = 107 - len("/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store")
"""Of its path, in bytes: a socket's path has at most 107."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Bulk data never passes through the object store, so Ray's default of about a third of a laptop's memory is not needed."""


def ensure_ray(cluster: ClusterSection) -> None:
    """Connect to the Ray cluster of the config or of RAY_ADDRESS; if there is neither, start Ray on this machine.

    A Ray started here uses token authentication, because its ports listen on every interface.
    """
    # Silences a warning at import about a future default for zero-GPU tasks.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A process of Ray Train that tells training loops of nodes that are about to go. This one does not ask: it has checkpoints.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # How long an OpenMP thread spins at a barrier before it sleeps. Time of a training step of the digits on two cores with
    # libgomp's default, this value, and no spinning: 53, 60 and 90 ms; beside two other busy processes: over 1,000, 170-300
    # and 140 ms.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    address = cluster.ray_address
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it at import
    # Ray Data passes its actors' arguments by reference, and Ray's core prints a warning about that for each pool. It does not
    # apply: the driver keeps the references as long as the pool lives.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if not ray.is_initialized():
        with _silent_stderr(), _kept_handlers(), _own_groups():
            if address:
                _connect(address)
            else:
                _start()
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


def _connect(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises errors of many types
        raise RunError(
            f"cluster.address: cannot use the Ray cluster at {address} ({one_line(error)}); check the address (also of "
            "RAY_ADDRESS), the token, and that the cluster runs"
        ) from error


def _start() -> None:
    """Start Ray on this machine. A busy machine may be too slow for Ray's patience with its own processes: try twice."""
    import ray

    _make_token_private()
    for last in (False, True):
        try:
            own = "RAY_TMPDIR" not in os.environ
            directory = str(_temporary.enter_context(scratch(LONGEST_TEMPORARY))) if own else None
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=directory,
            )
            break
        except UserError:
            raise
        except Exception as error:  # Ray raises errors of many types, a plain Exception among them
            shut_down()
            if last:
                raise RunError(
                    f"Ray could not be started on this machine, in two attempts ({one_line(error)}); run the same command again "
                    "when the machine is less busy, or set RAY_TMPDIR to a short path on a disk with space"
                ) from error
    # Ray opens its directory of logs and sockets to every user of the machine.
    Path(ray._private.worker._global_node.get_session_dir_path()).chmod(0o700)


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
    """Stop the Ray that this process started, and remove its files, or disconnect from the cluster, where either was done."""
    if "ray" in sys.modules:
        begun = descendants(_own_processes())
        sys.modules["ray"].shutdown()
        _end(begun)


def _own_processes() -> list[int]:
    """Ray's processes that this process has started itself; none in a cluster."""
    node = sys.modules["ray"]._private.worker._global_node
    return [process.pid for _, process in node.live_processes()] if node else []


def kill() -> None:
    """End all processes that this one has started, without waiting for them, and remove Ray's files."""
    _end(descendants([os.getpid()])[1:])


def _end(processes: list[Process]) -> None:
    """Kill those of the processes that are left: Ray's workers look seldom whether Ray is still there."""
    for pid, started in processes:
        if start_time(pid) == started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _temporary.close()
    forget_dead()


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
def _own_groups() -> Iterator[None]:
    """Start Ray's processes in process groups of their own. `timeout` and batch systems send SIGTERM to the whole group of a
    command, which could not stop in order if Ray were gone before it."""
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Install the program's own handlers of signals again: Ray installs others, which print C++ stack traces and exit with 1."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler) and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)


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
    """Turn off Ray's output on the terminal, which shows side-ray's own progress. Ray's logs are in its
    session directory, which stays only where RAY_TMPDIR is set."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")


def fitting(share: float, there: float) -> int:
    """How many processes that each reserve `share` of a resource fit on a node that has `there` of it."""
    return int(there * int(1 / share)) if 0 < share < 1 else int(there // share) if share else sys.maxsize


def check_room(cluster: ClusterSection, cpus_key: str, gpus: float, count: int, count_key: str) -> str:
    """Check that `count` processes that each reserve CPUs and `gpus` GPUs fit in the cluster together. Ray itself would wait
    for ever.

    Args:
        cpus_key, count_key: the keys of `cluster` that say how many.

    Returns:
        "", or, where nodes may be added to a cluster, what it waits for.

    Raises:
        UserError: they cannot, on this machine alone.
    """
    import ray

    cpus = getattr(cluster, cpus_key)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fit = [(fitting(cpus, node.get("CPU", 0)), fitting(gpus, node.get("GPU", 0))) for node in nodes]
    if sum(min(each) for each in fit) >= count:
        return ""
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    if not any(by_gpus for _, by_gpus in fit):
        key, problem = "gpus", f"a process asks for {gpus:g} GPUs, but no machine has more than {most['GPU']:g}"
    elif not any(by_cpus for by_cpus, _ in fit):
        key, problem = cpus_key, f"a process asks for {cpus} CPUs, but no machine has more than {most['CPU']:g}"
    else:
        key = count_key
        problem = f"{count} processes with {cpus} CPUs and {gpus:g} GPUs each are more than the machines have room for"
    if not _own_processes():
        return f"cluster.{key}: {problem} now; waiting until the cluster grows"
    raise UserError(f"{problem}; lower it", f"cluster.{key}")


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
