"""Memory for a search's inner loops."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import DTypeLike


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """As `numpy.empty`, but from torch: it begins at a cache line, across which vectors are slow, and not with huge pages,
    which are cleared as a whole where only a part is used."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()


class Scratch:
    """Memory that is used again and again, by one thread at a time."""

    def __init__(self) -> None:
        self.held: dict[str, np.ndarray] = {}

    def get(self, name: str, rows: int, columns: int, dtype: DTypeLike) -> np.ndarray:
        """Memory [rows, columns], whose content is that of the last use of this name, which has one dtype."""
        if name not in self.held or self.held[name].size < rows * columns:
            self.held[name] = empty((rows * columns,), dtype)
        return self.held[name][: rows * columns].reshape(rows, columns)


_free: list[Scratch] = []


@contextmanager
def borrowed() -> Iterator[Scratch]:
    """A scratch memory, kept for whoever comes next: fresh memory costs a page fault for every 4 KiB."""
    try:
        scratch = _free.pop()
    except IndexError:
        scratch = Scratch()
    try:
        yield scratch
    finally:
        _free.append(scratch)
