"""The door of the search: several rows may show one training image, and a query may come in several versions.

The value of a training image is then that of its closest row to the closest version, and an image is counted once for each
query, at its best level. A training set without such rows is searched by `RowIndex` alone, at no cost.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from side_ray.search.index import RowIndex
from side_ray.search.neighbors import Counts, Levels, Metric, Neighbors, nearest_first, normalize

SPARE = 14
"""Rows searched beyond k where rows share ids."""
WIDER = 4
"""Factor by which a search is widened that did not reach far enough."""
LISTED = 2**24
"""Most entries of the lists that are held at a time."""


class Index(RowIndex):
    """Exact nearest training images, and exact counts at levels of similarity, of queries against one part of a training set.

    Args:
        features, metric, options: as of `RowIndex`.
        ids: int64 [n]; rows with the same id show the same image. All of them must be in one part.
    """

    def __init__(self, features: np.ndarray, ids: np.ndarray, metric: Metric, **options: Any) -> None:
        _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
        self.size = len(counts)
        """Number of training images."""
        self.shared: np.ndarray | None = None
        """int64 [n], the ids, where rows share some."""
        if self.size == len(ids):
            super().__init__(features, ids, metric, **options)
            return
        super().__init__(features, np.arange(len(ids)), metric, **options)
        self.shared = ids.astype(np.int64)
        self.several = np.flatnonzero(counts[inverse] > 1)
        self.several_rows = RowIndex(features[self.several], self.several, metric, **options)

    def search(self, queries: np.ndarray, k: int, levels: Levels | None = None) -> tuple[Neighbors, Counts | None]:
        """The k nearest training images of each query and, for `ip`, the counts of all at `levels`.

        Args:
            queries: float32 [Q, d], or [v, Q, d] for v versions of each query.
            k: at least 1; capped at the number of images of the part.

        Returns:
            Neighbors [Q, min(k, size)], and the counts where levels are given.
        """
        if self.shared is None and queries.ndim == 2:
            return super().search(queries, k, levels)
        if levels is not None:
            self._check(levels)
        k = min(k, self.size)
        versions = queries if queries.ndim == 3 else queries[None]
        found = Neighbors(np.empty((versions.shape[1], k), np.int64), np.empty((versions.shape[1], k)))

        def complete(rows: np.ndarray, lists: list[Neighbors]) -> np.ndarray:
            return np.logical_and.reduce([self._closer_than_last(each) >= k for each in lists])

        width = k if self.shared is None else k + SPARE
        for rows, lists in self._lists(self, versions, width, None if self.shared is None else complete):
            nearest = self._images(lists)
            found.ids[rows], found.values[rows] = nearest.ids[:, :k], nearest.values[:, :k]
        return found, None if levels is None else self.count(queries, levels)

    def count(self, queries: np.ndarray, levels: Levels, denominator: np.ndarray | None = None) -> Counts:
        """How many queries have each training image at each named level, without a search.

        Args:
            queries: float32 [Q, d] or [v, Q, d].
            denominator: float64 [Q], for `l2`: value = distance / denominator, which comes from the neighbours merged over
                the whole training set.
        """
        if queries.ndim == 3:
            return self._count_lists(self, queries, levels, denominator)
        if self.shared is None:
            return super().count(queries, levels, denominator)
        rows = super().count(queries, levels, denominator)
        alone = ~np.isin(rows.train_ids, self.several)
        counts = Counts(rows.levels[alone], self.shared[rows.train_ids[alone]], rows.counts[alone], rows.first[alone])
        return Counts.merge([counts, self._count_lists(self.several_rows, queries[None], levels, denominator)])

    def within(self, queries: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All training images at an `l2` distance of at most `radius` (float64 [Q]) from each query.

        Returns:
            The queries' rows int64 [m], the ids int64 [m] and the distances float64 [m] of the pairs.
        """
        parts = [np.empty((3, 0))]
        for rows, images in self._reaching(self, queries[None], radius):
            row, column = np.nonzero(images.values <= radius[rows, None])
            parts.append(np.stack([rows[row], images.ids[row, column], images.values[row, column]]))
        found = np.concatenate(parts, axis=1)
        return found[0].astype(np.int64), found[1].astype(np.int64), found[2]

    def _count_lists(
        self, index: RowIndex, versions: np.ndarray, levels: Levels, denominator: np.ndarray | None
    ) -> Counts:
        self._check(levels)
        if (denominator is None) != (self.part.metric == "ip"):
            raise ValueError("l2 counts need the denominator of each query, ip counts none")
        named = [level for level, names in enumerate(levels.labels) if names]
        if not named:
            return Counts.merge([])
        edge, total = float(levels.edges[named[0]]), versions.shape[1]
        reach = np.full(total, edge - 1e-6)
        if self.part.metric == "l2":
            assert denominator is not None
            # A little farther, because values are rounded to float32 before they meet an edge.
            reach = np.full(total, np.inf) if edge == -np.inf else -edge * denominator * (1 + 1e-6)
        counts = []
        for rows, images in self._reaching(index, versions, reach):
            values = images.values if denominator is None else normalize(images.values, denominator[rows, None])
            level = np.where(images.ids < 0, -1, levels.assign(values))
            row, column = np.nonzero(np.isin(level, named))
            counts.append(Counts.of_pairs(level[row, column], images.ids[row, column], rows[row]))
        return Counts.merge(counts)

    def _reaching(
        self, index: RowIndex, versions: np.ndarray, reach: np.ndarray
    ) -> Iterator[tuple[np.ndarray, Neighbors]]:
        """For blocks of queries, by their rows: the images that are not farther than `reach`, and some that are."""
        far = (lambda last, at: last > at) if self.part.metric == "l2" else (lambda last, at: last < at)

        def complete(rows: np.ndarray, lists: list[Neighbors]) -> np.ndarray:
            return np.logical_and.reduce([far(each.values[:, -1], reach[rows]) for each in lists])

        for rows, lists in self._lists(index, versions, SPARE, complete):
            yield rows, self._images(lists)

    def _lists(
        self,
        index: RowIndex,
        versions: np.ndarray,
        k: int,
        complete: Callable[[np.ndarray, list[Neighbors]], np.ndarray] | None,
    ) -> Iterator[tuple[np.ndarray, list[Neighbors]]]:
        """The nearest rows of each version of a query: as many, from k on, as `complete` asks for."""
        size, rows = len(index.part.features), np.arange(versions.shape[1])
        while rows.size:
            k, left = min(k, size), []
            for block in np.array_split(rows, -(-rows.size * k * len(versions) // LISTED)):
                lists = [RowIndex.search(index, each[block], k)[0] for each in versions]
                enough = np.ones(block.size, bool) if complete is None or k == size else complete(block, lists)
                yield block[enough], [Neighbors(each.ids[enough], each.values[enough]) for each in lists]
                left.append(block[~enough])
            rows, k = np.concatenate(left), WIDER * k

    def _images(self, lists: list[Neighbors]) -> Neighbors:
        """The training images in lists of rows, each once, nearest first; then id −1, infinitely far."""
        ids = np.concatenate([each.ids for each in lists], axis=1)
        values = np.concatenate([each.values for each in lists], axis=1)
        ids = ids if self.shared is None else self.shared[ids]
        again = _again(ids, nearest_first(values, ids, self.part.metric))
        ids = np.where(again, -1, ids)
        values = np.where(again, np.inf if self.part.metric == "l2" else -np.inf, values)
        order = nearest_first(values, ids, self.part.metric)
        return Neighbors(np.take_along_axis(ids, order, 1), np.take_along_axis(values, order, 1))

    def _closer_than_last(self, rows: Neighbors) -> np.ndarray:
        """int64 [Q], how many images are closer than the last row. Others may be as close as that and not in the list."""
        images = self._images([rows])
        last = rows.values[:, -1:]
        return (images.values < last if self.part.metric == "l2" else images.values > last).sum(axis=1)

    def _check(self, levels: Levels) -> None:
        if levels.larger_is_closer != (self.part.metric == "ip"):
            raise ValueError("the levels are of a similarity with another direction")


def _again(ids: np.ndarray, order: np.ndarray) -> np.ndarray:
    """bool [Q, m]: entries whose id came before in the order of their row (int64 [Q, m])."""
    ordered = np.take_along_axis(ids, order, 1)
    by_id = np.argsort(ordered, axis=1, kind="stable")
    sorted_ids = np.take_along_axis(ordered, by_id, 1)
    repeated = np.zeros(ids.shape, bool)
    repeated[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    again = np.empty(ids.shape, bool)
    np.put_along_axis(again, np.take_along_axis(order, by_id, 1), repeated, 1)
    return again
