"""Memory for a search's inner loops."""

import threading

import numpy as np
import torch
from numpy.typing import DTypeLike


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """As `numpy.empty`, but from torch: it begins at a cache line, across which vectors are slow, and not with huge pages,
    which are cleared as a whole where only a part is used."""
    return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()


class Scratch(threading.local):
    """A thread's own tiles: fresh memory would cost page faults at every use."""

    def __init__(self) -> None:
        self.held: dict[str, np.ndarray] = {}

    def get(self, name: str, rows: int, columns: int, dtype: DTypeLike) -> np.ndarray:
        """Memory [rows, columns], whose content is that of the last use of this name, which has one dtype."""
        if name not in self.held or self.held[name].size < rows * columns:
            self.held[name] = empty((rows * columns,), dtype)
        return self.held[name][: rows * columns].reshape(rows, columns)
