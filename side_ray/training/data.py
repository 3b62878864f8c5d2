"""The members as training data: cached in memory if they fit, otherwise streamed from storage every epoch."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch

from side_ray.images import ImageSet
from side_ray.runs.dataset import read_split
from side_ray.runs.run import Artifact
from side_ray.training.members import PIECE, Members, Order, floats, on_device, pixels_of
from side_ray.training.stream import Streamed


class Cached(Members):
    """All members in memory, as uint8: a quarter of the size of the float32 images that the network gets.

    Args:
        images: the members, with ids 0 … N − 1.
        order: the images of each step's batch.
    """

    def __init__(self, images: ImageSet, order: Order, device: torch.device) -> None:
        self.images, self.order, self.device = images, order, device
        self.pixels = on_device(pixels_of(images.images), device)
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
        """Does nothing: `pieces` still needs the pixels in memory."""


def epoch_order(total: int, batch: int, seed: int) -> Order:
    """Order of a data set of `total` images: a new seeded permutation in every epoch, cut into batches."""

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, 1, epoch]).permutation(total)

    def order(step: int) -> np.ndarray:
        position = np.arange(step * batch, (step + 1) * batch)
        return np.array([permutation(p // total)[p % total] for p in position.tolist()], np.int64)

    return order


def open_members(
    prepared: Artifact, cache_bytes: float, batch: int, order: Order | None, seed: int, device: torch.device
) -> Members:
    """The members of a prepared data set: cached if their pixels take at most `cache_bytes`, otherwise streamed.

    Args:
        prepared: the `prepare` artifact.
        batch: images per step, over all workers.
        order: order of cached images; None = `epoch_order`. Streamed images have their own order, see `stream.Order`.
    """
    info = prepared.info()
    if info["member"] * int(np.prod(info["shape"])) <= cache_bytes:
        images = read_split(prepared.store, prepared.key, "member")
        return Cached(images, order or epoch_order(len(images), batch, seed), device)
    return Streamed(prepared, cache_bytes, batch, seed, device)
