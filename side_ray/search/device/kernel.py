"""The kernel: the training images split over devices, the queries block by block."""

import numpy as np
import torch

from side_ray.search.blocked import workers
from side_ray.search.counting import LevelCounter
from side_ray.search.device.part import DevicePart
from side_ray.search.device.products import Precision, are_pixels
from side_ray.search.kernels import Found, Kernel
from side_ray.search.neighbors import Counts, Metric, merge

WORTH = 2**25
"""Feature elements of a part for which another device is worth its start."""
ROOM = 2**32
"""Bytes of a device that a search needs beside the training images: tiles and lists."""


class DeviceKernel(Kernel):
    """Nearest neighbours and counts on one or more devices.

    Args:
        features, ids, metric: as of `Index`.
        devices: on which to split the training images, with room for them (`devices_for`).
        precision: of the products; by default int8 for pixel values and l2, whose products are exact, and else fp16, which
            leaves fewer candidates than bf16 and costs as much.
    """

    name = "device"
    serial = True
    settles = True
    block = (8192, 0)

    def __init__(
        self,
        features: np.ndarray,
        ids: np.ndarray,
        metric: Metric,
        devices: list[torch.device],
        precision: Precision | None = None,
    ) -> None:
        super().__init__(features, metric)
        rows = np.array_split(np.arange(len(features)), min(len(devices), len(features)))
        self.parts = [
            DevicePart(features[part[0] : part[-1] + 1], ids[part[0] : part[-1] + 1], metric, device)
            for part, device in zip(rows, devices, strict=False)
        ]
        self.precision: Precision = precision or "fp16"
        if precision is None and metric == "l2" and all(are_pixels(part.features) for part in self.parts):
            self.precision = "int8"
        for part in self.parts:
            part.arranged(self.precision)

    def find(self, queries: np.ndarray, first: int, k: int, width: int, counter: LevelCounter | None) -> Found:
        rows = np.arange(first, first + len(queries))
        with workers(len(self.parts)) as run:
            found = run(lambda part: self._find(part, queries, rows, k, counter), self.parts)
        nothing, none = np.zeros(len(queries), bool), np.empty(0, np.int64)
        counts = None if counter is None else Counts.merge([each[1] for each in found if each[1] is not None])
        parts = [each[0] for each in found if each[0] is not None]
        nearest = (parts[0] if len(parts) == 1 else merge(parts, k, self.metric)) if k else None
        return Found(none, none, None, nothing, counts, nothing, nearest)

    def _find(self, part: DevicePart, queries: np.ndarray, rows: np.ndarray, k: int, counter: LevelCounter | None):
        there = part.upload(queries)
        # Queries between pixel values are no int8.
        precision: Precision = "fp16" if self.precision == "int8" and not are_pixels(there) else self.precision
        return part.find(there, rows, k, counter, precision)


def devices_for(features: np.ndarray) -> list[torch.device]:
    """The visible CUDA devices to split features float32 [n, d] over; empty where they do not fit."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = min(count, -(-features.size // WORTH))
    devices = [torch.device("cuda", number) for number in range(count)]
    # As float32, as codes of two kinds, and what encoding takes.
    needed = features.nbytes / max(count, 1) * 2 + ROOM
    return devices if all(torch.cuda.mem_get_info(device)[0] > needed for device in devices) else []
