"""Members that do not fit into a worker's memory, read part by part by Ray Data, ahead of the training.

An epoch visits the parts in a new order and takes so many of them at a time as memory allows: a window, within which the
images are shuffled. The order depends on the seed and the parts alone, so a resumed training goes on where it stopped, and
workers, each of which decodes the images of its own rows only, see together what one alone would see.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from side_ray.images import ImageSet, decode_column
from side_ray.runs.dataset import read_split
from side_ray.runs.run import Artifact
from side_ray.training.members import PIECE, Members, Part, floats, read_part

READERS = 16
"""Footers that are read at a time."""
READ_AT_A_TIME = 2
"""Parts that Ray Data decodes at a time for one worker."""
WINDOWS_HELD = 3
"""One being used, one ready, one being filled."""


class Order:
    """Which image comes when.

    Args:
        sizes: images in each part.
        window: parts in a window.
    """

    def __init__(self, sizes: list[int], window: int, seed: int) -> None:
        self.sizes, self.window, self.seed, self.count = np.array(sizes), window, seed, sum(sizes)

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Windows of one epoch: of each image in its turn the part int64 [n] and the row in that part int64 [n]."""
        rng = np.random.default_rng([self.seed, 1, number])
        parts = rng.permutation(len(self.sizes))
        for start in range(0, len(parts), self.window):
            chosen = parts[start : start + self.window]
            part = np.repeat(chosen, self.sizes[chosen])
            row = np.concatenate([np.arange(size) for size in self.sizes[chosen]])
            turn = rng.permutation(len(part))
            yield part[turn], row[turn]


def needed(order: Order, step: int, batch: int, rows: slice) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For ever, from the batch of `step` on: (epoch, parts, rows in them) of a window's images that are among `rows` of
    their batch; windows without any are left out."""
    position = step * batch
    epoch = position // order.count
    while True:
        start = epoch * order.count
        for part, row in order.epoch(epoch):
            turns = np.arange(start, start + len(part))
            within = turns % batch
            mine = (turns >= position) & (within >= rows.start) & (within < rows.stop)
            if mine.any():
                yield epoch, part[mine], row[mine]
            start += len(part)
        epoch += 1


class _ReadPart:
    """Decodes chosen rows of a part; runs in Ray Data's tasks. Picklable and small."""

    def __init__(self, prepared: Artifact, split: str) -> None:
        self.prepared, self.split = prepared, split

    def __call__(self, batch: pa.Table) -> dict[str, np.ndarray]:
        key, rows = batch.column("key")[0].as_py(), batch.column("rows")[0].as_py()
        with self.prepared.store.open_input(key) as source:
            column = pq.read_table(source, columns=["image"], filters=[("split", "==", self.split)]).column("image")
        return {"image": decode_column(column.take(pa.array(rows, pa.int64())))}


class Streamed(Members):
    """Images that come window by window while those before are trained on.

    Args:
        prepared: the `prepare` artifact.
        memory: bytes of pixels that a worker may hold.
        batch: images per step, over all workers.
    """

    def __init__(self, prepared: Artifact, memory: float, batch: int, seed: int, device: torch.device) -> None:
        self.prepared, self.batch, self.device = prepared, batch, device
        height, width, channels = prepared.info()["shape"]
        self.shape = (channels, height, width)
        keys = sorted(entry.key for entry in prepared.store.list(prepared.key))
        keys = [key for key in keys if key.removeprefix(f"{prepared.key}/").startswith("part-")]
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(lambda key: read_part(prepared, key, "member"), keys))
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
        """Start reading ahead, from the batch of `step`."""
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
        except BaseException as error:  # told to the training, which waits for a window
            ready.put(error)

    def _windows(self, step: int, rows: slice) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images uint8 [n, H, W, C] and ids int64 [n] of one window after the other, in the order of their turns."""
        waiting: list[tuple[int, np.ndarray, np.ndarray]] = []
        for window in needed(self.order, step, self.batch, rows):
            # One dataset per epoch: Ray Data plans a finite one.
            if waiting and waiting[0][0] != window[0]:
                yield from self._read(waiting)
                waiting = []
            waiting.append(window)

    def _read(self, windows: list[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import ray.data

        tasks = []
        for _, part, row in windows:
            for each in dict.fromkeys(part.tolist()):
                tasks.append({"key": self.parts[each].key, "rows": row[part == each].tolist()})
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        # Not `from_arrow`, which has a task look at the tables: it would wait for a processor, and the training for it.
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _ReadPart(self.prepared, "member"),
            batch_size=1,
            batch_format="pyarrow",
            # The workers have reserved the processors; what reads for them shares theirs.
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
                    images = np.empty((len(part), *pixels.shape[1:]), np.uint8)
                images[mine] = pixels
                ids[mine] = self.parts[each].ids[row[mine]]
            assert images is not None
            yield images, ids


class _Rows:
    """Rows out of blocks, wherever Ray Data cut these."""

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
