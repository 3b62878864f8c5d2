"""The passes that compare images: `Duplicates` finds those that count as one, `Near` what `data.dedup: near` leaves out."""

import numpy as np
import pyarrow as pa

from side_ray.execution.ingest.passes import IngestSpec, Pass, pixels_key, thumbnails_key
from side_ray.search import Index, Neighbors, merge
from side_ray.similarity.duplicates import near_pairs
from side_ray.similarity.nl2 import Nl2

BLOCK_IMAGES = 16_384
"""About how many images a task compares with all behind them."""
ALIKE, DISTINCT = "scan/alike.parquet", "scan/distinct.parquet"


def alike_key(block: int) -> str:
    return f"scan/alike-{block:06d}.parquet"


def near_key(unit: int) -> str:
    return f"scan/near-{unit:06d}.parquet"


class Duplicates(Pass):
    """Finds the near duplicates (`similarity.duplicates`) of every distinct image of a block among those of it and later blocks.

    Table `ALIKE` lists the images: `block`, `unit`, `row` in the unit's thumbnails, and `index`, by which pairs name them.
    """

    def __init__(self, spec: IngestSpec, blocks: int) -> None:
        super().__init__(spec)
        self.blocks = blocks

    def make(self, unit: int) -> None:
        mine, names = self._thumbnails(unit)
        pairs, shares = [np.empty((0, 2), np.int64)], [np.empty(0)]
        for block in range(unit, self.blocks):
            theirs, others = (mine, names) if block == unit else self._thumbnails(block)
            rows, columns, share = near_pairs(mine, theirs)
            found = np.stack([names[rows], others[columns]], axis=1)
            later = found[:, 0] < found[:, 1]
            pairs.append(found[later])
            shares.append(share[later])
        first, second = np.concatenate(pairs).T
        self.spec.write(alike_key(unit), pa.table({"first": first, "second": second, "share": np.concatenate(shares)}))

    def _thumbnails(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Thumbnails uint8 [n, h, w, C] and names int64 [n] of the images of a block."""
        rows = self.spec.rows(ALIKE, block, "block")
        units, row = rows.column("unit").to_numpy(), rows.column("row").to_numpy()
        parts = [self.spec.array(thumbnails_key(unit))[row[units == unit]] for unit in np.unique(units).tolist()]
        return np.concatenate(parts), rows.column("index").to_numpy()


class Near(Pass):
    """Finds the near duplicates of every distinct image of a unit: all images at a normalized L2 distance below the bound.

    As in the scores, the unit of distance is half the mean distance to the 50 nearest *other* images. An image at a distance
    below 2 is therefore among these 50, and none is missed.
    """

    def make(self, unit: int) -> None:
        queries, indices = self._features(unit)
        pairs = self._pairs(queries, indices) if len(indices) else np.empty((0, 2), np.int64)
        self.spec.write(near_key(unit), pa.table({"first": pairs[:, 0], "second": pairs[:, 1]}))

    def _pairs(self, queries: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """int64 [P, 2]: census indices of a query image and of a near duplicate of it."""
        similarity = Nl2()
        k = similarity.neighbors + 1
        parts = []
        for unit in range(self.spec.units):
            features, ids = self._features(unit)
            if len(ids):
                parts.append(Index(features, ids, "l2", engine="torch").search(queries, k)[0])
        found = merge(parts, k, "l2")
        # Distinct images have a distance above 0, so the nearest neighbour of each image is itself.
        others = Neighbors(found.ids[:, 1:], found.values[:, 1:])
        if not others.ids.shape[1]:
            return np.empty((0, 2), np.int64)
        rows, columns = np.nonzero(similarity.values(others) < self.spec.near)
        return np.stack([indices[rows], others.ids[rows, columns]], axis=1)

    def _features(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels float32 [n, d] and census indices int64 [n] of the distinct images of a unit."""
        rows = self.spec.rows(DISTINCT, unit)
        if not rows.num_rows:
            return np.empty((0, 1), np.float32), np.empty(0, np.int64)
        pixels = self.spec.array(pixels_key(unit))
        return pixels[rows.column("row").to_numpy()].astype(np.float32), rows.column("index").to_numpy()
