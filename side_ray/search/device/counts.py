"""Counts at levels on a device, from scores; what a score cannot decide is decided on its float64 value."""

from collections.abc import Callable

import numpy as np
import torch

from side_ray.search.counting import BlockLevels, LevelCounter
from side_ray.search.device.pairs import Pairs
from side_ray.search.neighbors import Counts

NONE = torch.iinfo(torch.int64).max


class DeviceCounts:
    """For each level and training image, how many queries of a block have it there, and the first of them.

    Args:
        bounds: the edges of the levels as bounds on the scores of the block's queries.
        ids, real: int64 [N], the training id of each column; bool [N], whether it counts.
        values: float64 values of pairs .
    """

    def __init__(
        self,
        counter: LevelCounter,
        bounds: BlockLevels,
        ids: torch.Tensor,
        real: torch.Tensor,
        values: Callable[[Pairs], torch.Tensor],
    ) -> None:
        self.counter, self.ids, self.real, self.values = counter, ids, real, values
        device = ids.device

        def there(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.lowest, self.maybe, self.sure = (there(each) for each in (bounds.lowest, bounds.maybe, bounds.sure))
        self.rows, self.edges = there(bounds.rows), there(counter.levels.edges)
        self.denominator = None if counter.denominator is None else there(counter.denominator[bounds.rows])
        size = self.sure.shape[1], len(ids)
        self.counts = torch.zeros(size, dtype=torch.int64, device=device)
        self.first = torch.full(size, NONE, dtype=torch.int64, device=device)

    def take(self, pairs: Pairs) -> None:
        """Count listed pairs."""
        pairs = pairs.where(pairs.scores >= self.lowest[pairs.rows])
        scores, maybe, sure = pairs.scores[:, None], self.maybe[pairs.rows], self.sure[pairs.rows]
        unsure = ((scores >= maybe) & (scores < sure)).any(dim=1)
        decided = ~unsure
        self._add((scores >= sure).sum(dim=1)[decided] - 1, pairs.where(decided))
        self._add_exactly(pairs.where(unsure))

    def take_tile(self, scores: torch.Tensor, start: int) -> None:
        """Count a whole tile of scores [q, t], the first column of which is `start`."""
        unsure = torch.zeros_like(scores, dtype=torch.bool)
        beyond = torch.zeros_like(unsure)
        columns = slice(start, start + scores.shape[1])
        for edge in reversed(range(self.sure.shape[1])):
            above, possible = scores >= self.sure[:, edge, None], scores >= self.maybe[:, edge, None]
            unsure |= possible & ~above
            inside = above & ~beyond
            beyond = possible
            self.counts[edge, columns] += inside.sum(dim=0)
            first = torch.where(inside.any(dim=0), self.rows[inside.to(torch.uint8).argmax(dim=0)], NONE)
            self.first[edge, columns] = torch.minimum(self.first[edge, columns], first)
        rows, places = torch.nonzero(unsure & self.real[columns], as_tuple=True)
        self._add_exactly(Pairs(rows, places + start, scores[rows, places]))

    def result(self) -> Counts:
        """The counts at all levels that have a name."""
        levels, columns = torch.nonzero(self.counts * self.real, as_tuple=True)
        arrays = (levels, self.ids[columns], self.counts[levels, columns], self.first[levels, columns])
        level, train_ids, count, first = (each.cpu().numpy() for each in arrays)
        level = level + self.counter.lowest
        named = np.isin(level, self.counter.named)
        return Counts(level[named], train_ids[named], count[named], first[named])

    def _add_exactly(self, pairs: Pairs) -> None:
        values = self.values(pairs)
        if self.denominator is not None:
            values = torch.where(values == 0, 0.0, values / self.denominator[pairs.rows])
        closeness = values.float() if self.counter.levels.larger_is_closer else -values.float()
        level = torch.bucketize(closeness, self.edges, right=True) - 1 - self.counter.lowest
        kept = (level >= 0) & ~closeness.isnan()
        self._add(level[kept], pairs.where(kept))

    def _add(self, level: torch.Tensor, pairs: Pairs) -> None:
        places = level * self.counts.shape[1] + pairs.columns
        self.counts.view(-1).scatter_add_(0, places, torch.ones_like(places))
        self.first.view(-1).scatter_reduce_(0, places, self.rows[pairs.rows], "amin")
