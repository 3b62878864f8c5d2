"""What is wrong with a machine, and what to do about it."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from side_ray.errors import UserError
from side_ray.storage import Store
from side_ray.storage.cache import cache_root

LEAST_MEMORY, LEAST_DISK, LEAST_SHARED = 4 * 2**30, 5 * 2**30, 256 * 2**20
"""Bytes below which an audit of small images is likely to fail. Ray's object store lies in shared memory."""
PROBE_BYTES = 8 * 2**20
PROBE = "_doctor.bin"


@dataclass(frozen=True)
class Check:
    """One check: what was found, and what to do about it; an empty `remedy` means that nothing is wrong."""

    name: str
    found: str
    remedy: str = ""


def doctor(store: Store | None = None) -> list[Check]:
    """Check this machine and, if given, the store of a run. Nothing is left behind."""
    checks = [_python, _packages, _device, _faiss, _memory, _shared_memory, _disk]
    found = [each for check in checks for each in check()]
    return [*found, *(() if store is None else _storage(store))]


def _python() -> Iterator[Check]:
    remedy = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer"
    yield Check("python", sys.version.split()[0], remedy)


def _packages() -> Iterator[Check]:
    for name in ("ray", "torch", "diffusers", "pyarrow"):
        try:
            yield Check(name, version(name))
        except PackageNotFoundError:
            yield Check(name, "not installed", "pip install 'side-ray[cpu]' or 'side-ray[gpu]'")


def _device() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield Check("device", f"{torch.cuda.get_device_name()}, {_gib(free)} of {_gib(total)} free")
    elif list(Path("/dev").glob("nvidia[0-9]*")):
        built = torch.version.cuda or "no CUDA"
        yield Check(
            "device",
            f"an NVIDIA GPU that torch {torch.__version__} ({built}) cannot use",
            "install a CUDA build of torch that fits the driver (nvidia-smi shows its version)",
        )
    else:
        yield Check("device", f"CPU, {os.cpu_count()} cores, no GPU")


def _faiss() -> Iterator[Check]:
    if find_spec("faiss") is None:
        yield Check("faiss", "not installed", "pip install 'side-ray[cpu]', or [gpu] on machines with a GPU")
        return
    import faiss
    import torch

    gpu = hasattr(faiss, "StandardGpuResources")
    remedy = "for search on the GPU: pip uninstall faiss-cpu; pip install 'side-ray[gpu]'"
    build = "GPU build" if gpu else "CPU build"
    yield Check("faiss", f"{faiss.__version__}, {build}", remedy if torch.cuda.is_available() and not gpu else "")


def _memory() -> Iterator[Check]:
    free = _available_memory()
    if free is not None:
        remedy = "" if free >= LEAST_MEMORY else "close other programs, or lower cluster.actors and extract.batch_size"
        yield Check("memory", f"{_gib(free)} free", remedy)


def _available_memory() -> int | None:
    """Free bytes of this machine, or of the container if that has less; None where it is not known."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None
    try:
        limit, used = (Path("/sys/fs/cgroup", f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no limit, or no such file
        return free


def _shared_memory() -> Iterator[Check]:
    if Path("/dev/shm").is_dir():  # noqa: S108 (Ray's object store lies there)
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108
        remedy = "" if free >= LEAST_SHARED else "give the container more, for example docker run --shm-size=1g"
        yield Check("shared memory", f"{_gib(free)} free", remedy)


def _disk() -> Iterator[Check]:
    places = {"working directory": Path.cwd(), "cache": cache_root()}
    for name, path in places.items():
        there = next(each for each in (path, *path.parents) if each.exists())
        free = shutil.disk_usage(there).free
        remedy = "" if free >= LEAST_DISK else f"free space in {there}"
        remedy = "set SIDE_RAY_CACHE to a directory with space" if remedy and name == "cache" else remedy
        yield Check(f"disk ({name})", f"{_gib(free)} free in {there}", remedy)


def _storage(store: Store) -> Iterator[Check]:
    """Whether the store can be read and written, and how fast."""
    try:
        store.check()
        data = os.urandom(PROBE_BYTES)
        try:
            wrote = _seconds(lambda: store.write(PROBE, data))
            read = _seconds(lambda: store.read(PROBE))
        finally:
            store.delete(PROBE)
    except UserError as error:
        yield Check("storage", store.uri, str(error))
        return
    speed = f"writes {PROBE_BYTES / wrote / 1e6:,.0f} MB/s, reads {PROBE_BYTES / read / 1e6:,.0f} MB/s"
    yield Check("storage", f"{store.uri}: {speed}")


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return max(time.perf_counter() - began, 1e-9)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
