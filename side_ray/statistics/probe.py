"""AMS of a few samples while a DPM is being trained."""

from collections.abc import Iterable

import numpy as np

from side_ray.search import Index, merge
from side_ray.similarity.base import Similarity
from side_ray.statistics.bands import Bands


def probe_ams(
    samples: np.ndarray,
    members: Iterable[tuple[np.ndarray, np.ndarray]],
    similarity: Similarity,
    bands: Bands,
    *,
    flips: bool = False,
) -> dict[str, float]:
    """Share of `samples` whose best match is in each cumulative band (Eq. 14), by the band's name, and the mean best value.

    Args:
        samples: uint8 [N, H, W, C].
        members: pieces of the training set: ids int64 [n] and images uint8 [n, H, W, C].
        flips: compare the samples in both orientations.
    """
    queries = similarity.embed(samples)
    if flips:
        queries = np.stack([queries, similarity.embed(samples[:, :, ::-1])])
    found = [
        Index(similarity.embed(images), ids, similarity.metric, engine="torch").search(queries, similarity.neighbors)[0]
        for ids, images in members
    ]
    best = similarity.values(merge(found, similarity.neighbors, similarity.metric))[:, 0]
    levels = bands.levels()
    level = levels.assign(best)
    shares = {}
    for name in bands.names:
        within = np.any([levels.named(each) for each in bands.within(name)], axis=0)
        shares[f"ams_{name}"] = float(np.mean((level >= 0) & within[level]))
    return {**shares, "mean_best": float(best.mean())}
