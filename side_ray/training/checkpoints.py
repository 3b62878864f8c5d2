"""Checkpoints of one training in the run's storage. Each is one object, written atomically, so a listed one is complete."""

import pickle
import tempfile
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from side_ray.runs.run import Artifact

DIRECTORY, KEY = "checkpoints", "side_ray.key"
KEPT = 2
"""The newest checkpoint, and the previous one in case the newest cannot be read."""
DAMAGED = (RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, KeyError)


class Checkpoints:
    """Written by one worker in a background thread, read by all workers. The run's store retries failed requests."""

    def __init__(self, artifact: Artifact) -> None:
        self.store, self.directory = artifact.store, f"{artifact.key}/{DIRECTORY}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None

    def key(self, step: int) -> str:
        return f"{self.directory}/step-{step:09d}.pt"

    def steps(self) -> list[int]:
        """Steps with a checkpoint, newest first."""
        found = []
        for entry in self.store.list(self.directory):
            digits = entry.key.rsplit("/", 1)[-1].removeprefix("step-").removesuffix(".pt")
            if digits.isdecimal() and entry.key == self.key(int(digits)):
                found.append(int(digits))
        return sorted(found, reverse=True)

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Copy `state` (tensors, numbers, strings, lists and dicts of them) and write it while training continues.

        Raises:
            RunError: the previous checkpoint could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(self._write, step, _copied(state))

    def wait(self) -> None:
        """Wait until the checkpoint that `begin` started is written. Raises RunError if it could not be written."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()

    def _write(self, step: int, state: dict[str, Any]) -> None:
        # A file without a name: a killed process leaves nothing.
        with tempfile.TemporaryFile(prefix="side-ray-checkpoint-") as file:
            torch.save({**state, KEY: self.key(step)}, file)
            file.flush()
            self.store.put_file(Path(f"/dev/fd/{file.fileno()}"), self.key(step))
        for old in self.steps()[KEPT:]:
            self.store.delete(self.key(old))

    def load(self, step: int) -> dict[str, Any]:
        """The state of one checkpoint, on the CPU. Raises one of `DAMAGED` if it is not whole or a copy of another one, or
        FileNotFoundError."""
        with tempfile.TemporaryFile(prefix="side-ray-checkpoint-") as file:
            with self.store.open_input(self.key(step)) as source:
                while block := source.read(16 << 20):
                    file.write(block)
            file.seek(0)
            with zipfile.ZipFile(file) as archive:  # torch does not compare the checksums
                if (damaged := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            file.seek(0)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state.pop(KEY, self.key(step)) != self.key(step):
            raise KeyError(f"{self.key(step)} is a copy of another checkpoint")
        return state

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest checkpoint that can be read; None if there is none."""
        for step in self.steps():
            with suppress(FileNotFoundError, *DAMAGED):
                return step, self.load(step)
        return None


def remove_checkpoints(artifact: Artifact) -> None:
    """Delete the checkpoints of a complete training; cheap if there are none."""
    directory = f"{artifact.key}/{DIRECTORY}"
    if next(artifact.store.list(directory), None) is not None:
        artifact.store.delete(directory)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value
