"""The training images of one device, and what a search asks of them."""

import numpy as np
import torch

from side_ray.search.counting import LevelCounter
from side_ray.search.device.arranged import Arranged, arrange
from side_ray.search.device.products import Precision
from side_ray.search.device.selection import Selection, TooMany
from side_ray.search.neighbors import Counts, Metric, Neighbors


class DevicePart:
    """Training features float32 [n, d] with their ids int64 [n], on one device."""

    def __init__(self, features: np.ndarray, ids: np.ndarray, metric: Metric, device: torch.device) -> None:
        self.metric, self.device = metric, device
        self.features, self.ids = self.upload(features), self.upload(ids)
        self._arranged: dict[Precision, Arranged] = {}

    def upload(self, array: np.ndarray) -> torch.Tensor:
        # A copy where memory is read-only, of which torch warns otherwise.
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def arranged(self, precision: Precision) -> Arranged:
        """The training images as codes; made once."""
        if precision not in self._arranged:
            self._arranged[precision] = arrange(self.features, self.metric, precision)
        return self._arranged[precision]

    def find(
        self,
        queries: torch.Tensor,
        rows: np.ndarray,
        k: int,
        counter: LevelCounter | None,
        precision: Precision,
    ) -> tuple[Neighbors | None, Counts | None]:
        """The min(k, n) nearest (None for k = 0) of queries float32 [q, d] on the device, and their counts at levels.

        Args:
            rows: int64 [q], the counter's numbers of the queries, ascending.
        """
        train = self.arranged(precision)
        try:
            selection = Selection(train, self.features, self.ids, self.metric, queries, rows, k, counter)
            return selection.run()
        except TooMany:
            middle = len(rows) // 2
            halves = [
                self.find(queries[part], rows[part], k, counter, precision)
                for part in (slice(middle), slice(middle, None))
            ]
        counts = [half[1] for half in halves if half[1] is not None]
        neighbors = [half[0] for half in halves if half[0] is not None]
        return (
            Neighbors(*(np.concatenate([getattr(each, name) for each in neighbors]) for name in ("ids", "values")))
            if neighbors
            else None
        ), (Counts.merge(counts) if counts else None)
