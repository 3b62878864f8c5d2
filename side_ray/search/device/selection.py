"""One pass of some queries over the training images of a device: candidates by groups, their float64 values, the nearest."""

import numpy as np
import torch

from side_ray.search.counting import LevelCounter
from side_ray.search.device.arranged import GROUP, Arranged
from side_ray.search.device.counts import DeviceCounts
from side_ray.search.device.pairs import Pairs, roots, values_of_pairs
from side_ray.search.device.products import SHIFT, multiply
from side_ray.search.neighbors import Counts, Metric, Neighbors

PER_NEIGHBOR = 4
"""Groups per wanted neighbour, at least: with fewer, the k-th best group would be far below the k-th best image."""
MOST_PAIRS = 2**26
"""Pairs that are looked into at a time."""
DENSE_SHARE = 0.02
"""Share of a tile's pairs in groups that reach a level, above which whole columns are counted instead of listing pairs."""


class TooMany(Exception):
    """More than `MOST_PAIRS` pairs of several queries; half of the queries have fewer."""


class Selection:
    """Scores are 2 ⟨q, x⟩ − ‖x‖² (l2) or ⟨q, x⟩ (ip), as in `search.kernels`.

    A true score lies within ε of its score, so what lies more than 2 ε below the k-th best score of a query cannot be among
    its k nearest. The k-th best group, each by a score that one of its images reaches, gives a bound that is no higher. Groups
    that cannot reach it are not looked into; what reaches it in the others is compared in float64.
    """

    def __init__(
        self,
        train: Arranged,
        features: torch.Tensor,
        ids: torch.Tensor,
        metric: Metric,
        queries: torch.Tensor,
        rows: np.ndarray,
        k: int,
        counter: LevelCounter | None,
    ) -> None:
        self.train, self.features, self.ids, self.metric = train, features, ids[train.order], metric
        self.queries, self.k, self.total = queries, min(k, len(features)), len(features)
        coded = train.encoder.encode(queries)
        self.codes, self.norms = coded.codes, coded.squares
        self.factor = (1 if metric == "ip" else 2) / (coded.scale * train.scale)
        self.epsilon = train.encoder.error(coded, train.longest, train.most_lost, metric)
        self.group = GROUP
        while self.group > 1 and self.total < PER_NEIGHBOR * k * self.group:
            self.group //= 2
        dtype = train.encoder.score_dtype
        self.lowest = -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min
        self.best = torch.full((len(queries), self.k), self.lowest, dtype=dtype, device=queries.device)
        self.threshold = self.best.new_full((len(queries),), self.lowest)
        self.candidates: list[Pairs] = []
        self.counts = None
        if counter is not None:
            norms = self.norms.cpu().numpy() if metric == "l2" else None
            score_dtype = np.dtype(np.int32 if dtype == torch.int32 else np.float32)
            bounds = counter.block(rows, norms, self.epsilon.cpu().numpy(), score_dtype)
            self.counts = DeviceCounts(counter, bounds, self.ids, train.real, self._values)

    def run(self) -> tuple[Neighbors | None, Counts | None]:
        for start in range(0, len(self.train.codes), self.train.step):
            self._take(multiply(self.codes, self.train.codes[start : start + self.train.step]), start)
        return self._nearest() if self.k else None, None if self.counts is None else self.counts.result()

    def _take(self, tile: torch.Tensor, start: int) -> None:
        """Take in the products [q, t] with the training images from `start` on."""
        if start + tile.shape[1] == len(self.train.codes):
            # A repetition must not stand for another image of its group: no product of pixels is smaller than this.
            least = -torch.inf if tile.is_floating_point() else -self.features.shape[1] * SHIFT**2
            tile[:, self.train.repeated - start] = least
        largest = tile.view(len(tile), self.group, -1).amax(dim=1)
        norms = None if self.train.norms is None else self.train.norms[start : start + tile.shape[1]]
        spread = None if norms is None else norms.view(self.group, -1)
        bound = None
        if self.k:
            self._raise(self._scores(largest, None if spread is None else spread.amax(dim=0)), start)
            bound = self.threshold
        possible = self._scores(largest, None if spread is None else spread.amin(dim=0))
        listed = False
        if self.counts is not None:
            reaching = int((possible >= self.counts.lowest[:, None]).sum())
            if reaching * self.group > DENSE_SHARE * tile.numel():
                self.counts.take_tile(self._scores(tile, norms), start)
            else:
                listed = True
                bound = self.counts.lowest if bound is None else torch.minimum(bound, self.counts.lowest)
        if bound is not None:
            pairs = self._reaching(tile, possible, bound, start)
            if listed and self.counts is not None:
                self.counts.take(pairs)
            if self.k:
                self.candidates.append(pairs.where(pairs.scores >= self.threshold[pairs.rows]))

    def _scores(self, products: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
        """Scores of products [..., m] with training images of such norms [m]."""
        if self.factor != 1:
            products = products * (2 if products.dtype == torch.int32 else self.factor)
        return products if norms is None else products - norms

    def _raise(self, reached: torch.Tensor, start: int) -> None:
        """Raise the thresholds by a score [q, groups] that one image of each group reaches."""
        if reached.shape[1] > self.k:
            reached = torch.topk(reached, self.k, dim=1, sorted=False).values
        if start or reached.shape[1] < self.k:
            reached = torch.topk(torch.cat([self.best, reached], dim=1), self.k, dim=1, sorted=False).values
        self.best = reached
        kth = self.best.amin(dim=1)
        if kth.dtype == torch.int32:
            self.threshold = kth
        else:
            below = (kth.double() - 2 * self.epsilon).float()
            self.threshold = torch.nextafter(below, torch.full_like(below, -torch.inf))

    def _reaching(self, tile: torch.Tensor, possible: torch.Tensor, bound: torch.Tensor, start: int) -> Pairs:
        """The pairs of a tile whose score is at least `bound` [q]."""
        rows, groups = torch.nonzero(possible >= bound[:, None], as_tuple=True)
        if len(rows) * self.group > MOST_PAIRS and len(tile) > 1:
            raise TooMany
        places = groups[:, None] + torch.arange(self.group, device=tile.device) * possible.shape[1]
        products = tile[rows[:, None], places]
        columns = places + start
        norms = None if self.train.norms is None else self.train.norms[columns]
        scores = self._scores(products, norms)
        kept = (scores >= bound[rows][:, None]) & self.train.real[columns]
        entry, place = torch.nonzero(kept, as_tuple=True)
        return Pairs(rows[entry], columns[entry, place], scores[entry, place])

    def _values(self, pairs: Pairs) -> torch.Tensor:
        """float64 [m], the values that a search reports."""
        if self.train.encoder.precision == "int8":
            return roots(self.norms[pairs.rows] - pairs.scores)
        columns = self.train.order[pairs.columns]
        return values_of_pairs(self.queries, self.features, pairs.rows, columns, self.metric)

    def _nearest(self) -> Neighbors:
        pairs = Pairs(*(torch.cat(parts) for parts in zip(*self.candidates, strict=True)))
        pairs = pairs.where(pairs.scores >= self.threshold[pairs.rows])
        values, ids = self._values(pairs), self.ids[pairs.columns]
        # By (query, value, id): each sort is stable. Zeros of either sign are equal, and few bits sort faster.
        keys = (values if self.metric == "l2" else -values) + 0.0
        short = pairs.rows.to(torch.int16 if len(self.queries) < 2**15 else torch.int32)
        order = torch.argsort(ids)
        for each in (keys, short):
            order = order[torch.sort(each[order], stable=True).indices]
        rows, values, ids = pairs.rows[order], values[order], ids[order]
        counts = torch.bincount(rows, minlength=len(self.queries))
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        kept = place < self.k
        return Neighbors(
            ids[kept].view(-1, self.k).cpu().numpy(),
            values[kept].view(-1, self.k).cpu().numpy(),
        )
