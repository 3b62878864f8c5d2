"""Duplicates among training images: which images are nearly the same, and which groups of them count as one image.

nL2 divides by the mean distance to the 50 nearest training images. Copies among these would make that unit small, and a copy of
an image that the training set holds many times would look like no copy, so the 50 are taken over groups.

Two images are *near duplicates* if their thumbnails differ by at most `BOUND` times the smaller of their contrasts: ‖s − t‖ ≤
BOUND · min(‖s − s̄‖, ‖t − t̄‖), where s̄ is the mean of each channel. A group is made by complete linkage, so any two images of it
are near duplicates or equal: chains of similar images do not become one.
"""

import heapq

import numpy as np

from side_ray.images import DEEP
from side_ray.search import Index

SIDE = 16
"""Most pixels on a side of a thumbnail."""
BOUND = 0.1
"""Largest difference of near duplicates, as a share of the contrast. Of scikit-learn's 1,797 digits the closest two, both ones,
are at 0.113."""


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] → uint8 [N, h, w, C]: means over blocks, h and w at most `SIDE`; small images are left as
    they are. uint16 → float32 in 0 … 255: images of 16 bits may differ by less than a level of 8."""
    height, width = (min(side, SIDE) for side in images.shape[1:3])
    rows, columns = (np.arange(n) * side // n for n, side in zip((height, width), images.shape[1:3], strict=True))
    sums = np.add.reduceat(np.add.reduceat(images, rows, axis=1, dtype=np.uint64), columns, axis=2)
    areas = np.outer(np.diff(np.r_[rows, images.shape[1]]), np.diff(np.r_[columns, images.shape[2]]))
    means = sums / areas[None, :, :, None]
    return (means / DEEP).astype(np.float32) if images.dtype == np.uint16 else np.rint(means).astype(np.uint8)


def contrast(thumbnails: np.ndarray) -> np.ndarray:
    """float64 [N], ‖t − t̄‖ of thumbnails [N, h, w, C]."""
    values = thumbnails.astype(np.float64)
    return np.sqrt(((values - values.mean(axis=(1, 2), keepdims=True)) ** 2).sum(axis=(1, 2, 3)))


def near_pairs(
    some: np.ndarray, others: np.ndarray, *, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The near duplicates of some images among others.

    Args:
        some, others: thumbnails [M, h, w, C] and [N, h, w, C].

    Returns:
        Rows int64 [P] of `some` and of `others`, and their differences float64 [P] as shares of the contrast.
    """
    mine, theirs = contrast(some), contrast(others)
    # A thumbnail without contrast shows nothing by which two images could be told apart.
    asked, kept = np.flatnonzero(mine > 0), np.flatnonzero(theirs > 0)
    if not asked.size or not kept.size:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    index = Index(_rows(others[kept]), kept, "l2", engine="torch", threads=threads)
    rows, columns, distances = index.within(_rows(some[asked]), BOUND * mine[asked])
    rows = asked[rows]
    shares = distances / np.minimum(mine[rows], theirs[columns])
    near = shares <= BOUND
    return rows[near], columns[near], shares[near]


def _rows(thumbnails: np.ndarray) -> np.ndarray:
    return thumbnails.reshape(len(thumbnails), -1).astype(np.float32)


def groups(contents: np.ndarray, pairs: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The group of each image of a set, int64 [N]: the number of its first image.

    Args:
        contents: int64 [N]; images with the same number have the same pixels.
        pairs: int64 [P, 2], contents that are near duplicates; others than these are passed over.
        shares: float64 [P], how much they differ.
    """
    distinct, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
    here = np.isin(pairs, distinct).all(axis=1)
    # The content's first image stands for it.
    clusters = complete_linkage(first[np.searchsorted(distinct, pairs[here])], shares[here])
    of_first = np.arange(len(contents))
    for members in clusters:
        of_first[members] = min(members)
    return of_first[first[inverse]]


def complete_linkage(pairs: np.ndarray, distances: np.ndarray) -> list[list[int]]:
    """Clusters of two or more items in which every two are a pair: of two clusters the closest are joined first, by the largest
    distance between their items.

    Args:
        pairs: int64 [P, 2], in either order; no other items are joined.
        distances: float64 [P].
    """
    items: dict[int, list[int]] = {}
    links: dict[int, dict[int, float]] = {}
    for (first, second), distance in zip(pairs.tolist(), distances.tolist(), strict=True):
        for one, other in ((first, second), (second, first)):
            items.setdefault(one, [one])
            links.setdefault(one, {})[other] = distance
    waiting = [(distance, one, other) for one in links for other, distance in links[one].items() if one < other]
    heapq.heapify(waiting)
    while waiting:
        distance, one, other = heapq.heappop(waiting)
        if links.get(one, {}).get(other) != distance or other not in links:
            continue
        gone, mine = links.pop(other), links[one]
        items[one] += items.pop(other)
        for each in mine.keys() | gone.keys():
            if each in (one, other):
                continue
            links[each].pop(other, None)
            if each in mine and each in gone:
                joined = max(mine[each], gone[each])
                if joined != mine[each]:
                    mine[each] = links[each][one] = joined
                    heapq.heappush(waiting, (joined, min(one, each), max(one, each)))
            else:
                mine.pop(each, None)
                links[each].pop(one, None)
        mine.pop(other)
    return [sorted(members) for members in items.values() if len(members) > 1]
