"""The interface of the training images, `Members`, for cached and streamed ones alike."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from side_ray.images import ImageSet
from side_ray.runs.run import Artifact
from side_ray.storage.sealed import read_columns

ON_DEVICE_BYTES = 2 << 30
"""Images up to this total size are kept on the device; larger sets stay in host memory and are copied batch by batch."""
PIECE = 4096

Order = Callable[[int], np.ndarray]
"""Maps a step to the positions int64 [B] of the images in its batch."""


class Members(ABC):
    """Images and labels of one split.

    Attributes:
        count: number of images.
        shape: (C, H, W) of each image.
        labels: int64 [count] on the device, None without labels.
    """

    count: int
    shape: tuple[int, int, int]
    labels: torch.Tensor | None

    @abstractmethod
    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """`rows` of the batch of `step`, on the device: images float32 [n, C, H, W] in [-1, 1] and their ids int64 [n]."""

    @abstractmethod
    def pieces(self) -> Iterator[ImageSet]:
        """All images in the order of their ids, up to `PIECE` at a time."""

    @abstractmethod
    def close(self) -> None:
        """Stop reading ahead; `draw` is not called again."""


def pixels_of(images: np.ndarray) -> torch.Tensor:
    """Images [N, H, W, C] → [N, C, H, W], of the same dtype."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()


def on_device(clean: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images or latents, on the device if they take at most `ON_DEVICE_BYTES`, else in host memory."""
    return clean.to(device) if clean.nbytes <= ON_DEVICE_BYTES else clean


def floats(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 → float32 in [-1, 1], of any shape."""
    return pixels.float().div_(127.5).sub_(1)


@dataclass(frozen=True)
class Part:
    """The images of a split in one `part-*.parquet`: its key, their ids int64 [n] and labels int64 [n], −1 = none."""

    key: str
    ids: np.ndarray
    labels: np.ndarray


def read_part(prepared: Artifact, key: str, split: str) -> Part:
    """Ids and labels of one part, without its images."""
    table = read_columns(prepared.store, key, ["id", "label"], [("split", "==", split)])
    return Part(key, table.column("id").to_numpy(), table.column("label").fill_null(-1).to_numpy())
