"""The members as a training worker reads them: from memory where they fit, else streamed from storage, epoch after epoch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq
import torch

from side_ray.datasets import ImageSet, read_split
from side_ray.run import Artifact

ON_DEVICE_BYTES = 2 << 30
"""Images up to this size lie on the device; more stay in the machine's memory and go over batch by batch."""
PIECE = 4096

Order = Callable[[int], np.ndarray]
"""Positions int64 [B] of the images that the batch of a step consists of."""


class Members(ABC):
    """Images and labels of one split.

    Attributes:
        count: images.
        shape: (C, H, W).
        labels: int64 [count] on the device, None without labels.
    """

    count: int
    shape: tuple[int, int, int]
    labels: torch.Tensor | None

    @abstractmethod
    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """`rows` of the batch of `step`: images float32 [n, C, H, W] in [-1, 1] and their ids int64 [n], on the device."""

    @abstractmethod
    def pieces(self) -> Iterator[ImageSet]:
        """All images in the order of their ids, some thousands at a time."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be drawn."""


class Cached(Members):
    """Keeps the pixels as bytes, a quarter of what the networks see.

    Args:
        images: their ids are dense from 0.
        order: which images are in the batch of a step.
    """

    def __init__(self, images: ImageSet, order: Order, device: torch.device) -> None:
        self.images, self.order, self.device = images, order, device
        self.pixels = on_device(images.images, device)
        self.count, self.shape = len(images), tuple(self.pixels.shape[1:])
        self.labels = None if images.labels is None else torch.tensor(images.labels, device=device)

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.from_numpy(self.order(step)[rows]).to(self.pixels.device)
        return floats(self.pixels[ids].to(self.device)), ids.to(self.device)

    def pieces(self) -> Iterator[ImageSet]:
        for start in range(0, self.count, PIECE):
            window = slice(start, start + PIECE)
            labels = None if self.images.labels is None else self.images.labels[window]
            yield ImageSet(self.images.ids[window], self.images.images[window], labels)

    def close(self) -> None:
        """What is in memory stays there: `pieces` reads it."""


def on_device(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [N, H, W, C] → [N, C, H, W], on the device unless they are too many for it."""
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    return pixels.to(device) if pixels.numel() <= ON_DEVICE_BYTES else pixels


def floats(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 → float32 in [-1, 1], of any shape."""
    return pixels.float().div_(127.5).sub_(1)


def epoch_order(total: int, batch: int, seed: int) -> Order:
    """A new seeded permutation of the data set in every epoch, read through batch by batch."""

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, 1, epoch]).permutation(total)

    def order(step: int) -> np.ndarray:
        position = np.arange(step * batch, (step + 1) * batch)
        return np.array([permutation(p // total)[p % total] for p in position.tolist()], np.int64)

    return order


@dataclass(frozen=True)
class Part:
    """The images of a split in one `part-*.parquet`: its key, their ids int64 [n] and labels int64 [n], −1 = none."""

    key: str
    ids: np.ndarray
    labels: np.ndarray


def read_part(prepared: Artifact, key: str, split: str) -> Part:
    """Ids and labels of one part, without its images."""
    with prepared.store.open_input(key) as source:
        table = pq.read_table(source, columns=["id", "label"], filters=[("split", "==", split)])
    return Part(key, table.column("id").to_numpy(), table.column("label").fill_null(-1).to_numpy())


def open_members(
    prepared: Artifact, cache_bytes: float, batch: int, order: Order | None, seed: int, device: torch.device
) -> Members:
    """The members of a prepared data set, cached if their pixels take at most `cache_bytes`, else streamed.

    Args:
        batch: images per step, over all workers.
        order: of the cached images; `epoch_order` where absent. Streamed ones come in an order of their own.
    """
    info = prepared.info()
    if info["member"] * int(np.prod(info["shape"])) <= cache_bytes:
        images = read_split(prepared.store, prepared.key, "member")
        return Cached(images, order or epoch_order(len(images), batch, seed), device)
    from side_ray.stages.stream import Streamed

    return Streamed(prepared, cache_bytes, batch, seed, device)
