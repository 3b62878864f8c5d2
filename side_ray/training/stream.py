"""Members that do not fit into a worker's memory: Ray Data reads them part by part, ahead of the training.

Each epoch visits the parts in a new random order. As many parts as fit into memory form a window, and the images of a window
are shuffled. The order depends only on the seed and the parts, so a resumed training continues with the same batches. Each
worker decodes only the images of its own rows; all workers together see the same batches as a single worker would.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from side_ray.images import ImageSet, decode_column
from side_ray.runs.dataset import part_keys, read_split
from side_ray.runs.run import Artifact
from side_ray.storage.sealed import read_columns
from side_ray.training.members import PIECE, Members, Part, floats, read_part

READERS = 16
"""Parquet files whose ids and labels are read at a time."""
READ_AT_A_TIME = 2
"""Parts that Ray Data decodes concurrently for one worker."""
WINDOWS_HELD = 3
"""Windows in memory: one in use, one ready, one being filled."""


class Order:
    """The order of the images in every epoch.

    Args:
        sizes: number of images in each part.
        window: number of parts in a window.
    """

    def __init__(self, sizes: list[int], window: int, seed: int) -> None:
        self.sizes, self.window, self.seed, self.count = np.array(sizes), window, seed, sum(sizes)

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The windows of one epoch: for each image, in order, its part int64 [n] and its row in that part int64 [n]."""
        rng = np.random.default_rng([self.seed, 1, number])
        parts = rng.permutation(len(self.sizes))
        for start in range(0, len(parts), self.window):
            chosen = parts[start : start + self.window]
            part = np.repeat(chosen, self.sizes[chosen])
            row = np.concatenate([np.arange(size) for size in self.sizes[chosen]])
            shuffled = rng.permutation(len(part))
            yield part[shuffled], row[shuffled]


def needed(order: Order, step: int, batch: int, rows: slice) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Endless sequence of windows from the batch of `step` on: (epoch, parts int64 [n], rows in them int64 [n]) of the images
    that are among `rows` of their batch. Windows without such images are skipped."""
    first = step * batch
    epoch = first // order.count
    while True:
        start = epoch * order.count
        for part, row in order.epoch(epoch):
            positions = np.arange(start, start + len(part))
            within = positions % batch
            mine = (positions >= first) & (within >= rows.start) & (within < rows.stop)
            if mine.any():
                yield epoch, part[mine], row[mine]
            start += len(part)
        epoch += 1


class _ReadPart:
    """Decodes chosen rows of a part, in a Ray Data task. Picklable and small."""

    def __init__(self, prepared: Artifact, split: str) -> None:
        self.prepared, self.split = prepared, split

    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        key, rows = batch.column("key")[0].as_py(), batch.column("rows")[0].as_py()
        table = read_columns(self.prepared.store, key, ["image"], [("split", "==", self.split)])
        column = table.column("image")
        return {"image": decode_column(column.take(pa.array(rows, pa.int64())))}


class Streamed(Members):
    """Members that are read window by window in the background while training uses the previous window.

    Args:
        prepared: the `prepare` artifact.
        memory: maximum size of the decoded pixels in a worker, bytes.
        batch: images per step, over all workers.
    """

    def __init__(self, prepared: Artifact, memory: float, batch: int, seed: int, device: torch.device) -> None:
        self.prepared, self.batch, self.device = prepared, batch, device
        height, width, channels = prepared.info()["shape"]
        self.shape = (channels, height, width)
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(lambda key: read_part(prepared, key, "member"), part_keys(prepared)))
        self.parts: list[Part] = [part for part in found if len(part.ids)]
        sizes = [len(part.ids) for part in self.parts]
        self.count = sum(sizes)
        largest = max(sizes) * height * width * channels
        self.order = Order(sizes, max(1, int(memory / WINDOWS_HELD / largest)), seed)
        labels = np.empty(self.count, np.int64)
        for part in self.parts:
            labels[part.ids] = part.labels
        self.labels = torch.from_numpy(labels).to(device) if (labels >= 0).any() else None
        self._next: tuple[int, slice] | None = None
        self._stop, self._ready = threading.Event(), queue.Queue[Any](1)
        self._window, self._at = (np.empty((0, 0, 0, 0), np.uint8), np.empty(0, np.int64)), 0

    def draw(self, step: int, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        if self._next != (step, rows):
            self._begin(step, rows)
        self._next = step + 1, rows
        wanted, images, ids = rows.stop - rows.start, [], []
        while wanted:
            if self._at == len(self._window[1]):
                self._window, self._at = self._take(), 0
            taken = slice(self._at, self._at + wanted)
            images.append(self._window[0][taken])
            ids.append(self._window[1][taken])
            self._at += len(ids[-1])
            wanted -= len(ids[-1])
        pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).contiguous()
        return floats(pixels.to(self.device)), torch.from_numpy(np.concatenate(ids)).to(self.device)

    def pieces(self) -> Iterator[ImageSet]:
        for start in range(0, self.count, PIECE):
            yield read_split(self.prepared.store, self.prepared.key, "member", start, start + PIECE)

    def close(self) -> None:
        self._stop.set()

    def _begin(self, step: int, rows: slice) -> None:
        """Start reading ahead from the batch of `step`."""
        self._stop.set()
        self._stop, self._ready = threading.Event(), queue.Queue[Any](1)
        self._window, self._at = (np.empty((0, 0, 0, 0), np.uint8), np.empty(0, np.int64)), 0
        arguments = self._stop, self._ready, step, rows
        threading.Thread(target=self._read_ahead, args=arguments, daemon=True, name="stream").start()

    def _take(self) -> tuple[np.ndarray, np.ndarray]:
        window = self._ready.get()
        if isinstance(window, BaseException):
            raise window
        return window

    def _read_ahead(self, stop: threading.Event, ready: queue.Queue[Any], step: int, rows: slice) -> None:
        try:
            for window in self._windows(step, rows):
                while not stop.is_set():
                    try:
                        ready.put(window, timeout=1)
                        break
                    except queue.Full:
                        continue
                if stop.is_set():
                    return
        except BaseException as error:  # raised in the training thread by `_take`
            ready.put(error)

    def _windows(self, step: int, rows: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The windows in order: images uint8 [n, H, W, C] and ids int64 [n] of each."""
        planned: list[tuple[int, np.ndarray, np.ndarray]] = []
        for window in needed(self.order, step, self.batch, rows):
            # One dataset per epoch, because a Ray Data dataset is finite.
            if planned and planned[0][0] != window[0]:
                yield from self._read(planned)
                planned = []
            planned.append(window)

    def _read(self, windows: list[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import ray.data

        tasks = []
        for _, part, row in windows:
            for each in dict.fromkeys(part.tolist()):
                tasks.append({"key": self.parts[each].key, "rows": row[part == each].tolist()})
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        # Not `from_arrow`: it runs a task on the tables, which would wait for a CPU that the training itself holds.
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _ReadPart(self.prepared, "member"),
            batch_size=1,
            batch_format="pyarrow",
            # The training workers have reserved the CPUs; these tasks share them.
            num_cpus=0,
            compute=ray.data.TaskPoolStrategy(size=READ_AT_A_TIME),
        )
        decoded = _Rows(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))
        for _, part, row in windows:
            images: np.ndarray | None = None
            ids = np.empty(len(part), np.int64)
            for each in dict.fromkeys(part.tolist()):
                mine = part == each
                pixels = decoded.take(int(mine.sum()))
                if images is None:
                    images = np.empty((len(part), *pixels.shape[1:]), pixels.dtype)
                images = images.astype(np.promote_types(images.dtype, pixels.dtype), copy=False)
                images[mine] = pixels
                ids[mine] = self.parts[each].ids[row[mine]]
            assert images is not None
            yield images, ids


class _Rows:
    """Takes any number of rows from a sequence of blocks of any size."""

    def __init__(self, blocks: Iterable[dict[str, np.ndarray]]) -> None:
        self._blocks = iter(blocks)
        self._left: list[np.ndarray] = []

    def take(self, count: int) -> np.ndarray:
        """The next `count` images, uint8 [count, H, W, C]."""
        while sum(map(len, self._left)) < count:
            self._left.append(next(self._blocks)["image"])
        rows = np.concatenate(self._left)
        self._left = [rows[count:]] if len(rows) > count else []
        return rows[:count]
