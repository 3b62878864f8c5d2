"""How similar training images are to themselves after JPEG or in a lower resolution: what the value of such a copy is at best.

A similarity under which these are no matches hides copies that have lost detail.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from side_ray.errors import Damaged
from side_ray.images import LOSSES, decode_column
from side_ray.runs.artifacts import CEILING_MEMBERS, Artifacts
from side_ray.runs.dataset import part_keys
from side_ray.runs.run import Artifact
from side_ray.runs.scores import find_cut
from side_ray.search import Neighbors, closeness_of, normalize
from side_ray.similarity.base import Similarity
from side_ray.statistics.bands import bands_of
from side_ray.statistics.scores import reaches
from side_ray.storage.sealed import read_table

FILES = 8
"""About how many files of images are read, so that the work does not grow with the set."""


def some_members(prepared: Artifact, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Members drawn at random with `seed`, at most `CEILING_MEMBERS`: of all files, or of `FILES` random ones if there are more.

    Returns:
        Their ids, int64 [n], ascending, and images [n, H, W, C].

    Raises:
        Damaged: files of the images are missing, or not whole.
    """
    rng, keys = np.random.default_rng([seed, 5]), part_keys(prepared)
    drawn, table, found = np.empty(0), None, 0
    for number, part in enumerate(rng.permutation(len(keys)).tolist()):
        if number >= FILES and found >= CEILING_MEMBERS:
            break
        try:
            own = read_table(prepared.store, keys[part], ["id", "image"], [("split", "==", "member")])
        except Damaged as damage:
            raise Damaged(damage.keys, damage.reason, prepared.marks) from None
        found += own.num_rows
        drawn = np.concatenate([drawn, rng.random(own.num_rows)])
        # Only what is still chosen is kept, since images may be large.
        chosen = np.argsort(drawn, kind="stable")[:CEILING_MEMBERS]
        drawn, table = drawn[chosen], (own if table is None else pa.concat_tables([table, own])).take(chosen)
    assert table is not None
    table = table.sort_by("id")
    return table.column("id").to_numpy(), decode_column(table.column("image"))


def measure_ceilings(
    similarity: Similarity,
    images: np.ndarray,
    own: np.ndarray,
    features: Callable[[np.ndarray], np.ndarray],
    originals: Callable[[np.ndarray], np.ndarray],
    search: Callable[[np.ndarray], Neighbors],
) -> dict[str, np.ndarray]:
    """By name of `images.LOSSES`, what a sample that is the changed image would be told of the image itself, float32 [n].

    Args:
        images: n members.
        own: int64 [n], the numbers that they have in the search.
        features: of images, as those of samples.
        originals: the features of the members themselves, by place int64 [m] in `images`, ascending.
        search: the nearest members of such features.
    """
    found = {}
    for name, change in LOSSES.items():
        queries = features(change(images))
        nearest = search(queries)
        unit, here = similarity.denominator(nearest), nearest.ids == own[:, None]
        values = np.take_along_axis(similarity.values(nearest), here.argmax(1)[:, None], 1)[:, 0]
        far = np.flatnonzero(~here.any(1))
        if far.size:  # too many other members are closer than the image itself
            between = _between(similarity, queries[..., far, :], originals(far))
            apart = Neighbors(own[far, None], between[:, None])
            values[far] = (similarity.values(apart) if unit is None else normalize(apart.values, unit[far, None]))[:, 0]
        found[name] = values.astype(np.float32)
    return found


def _between(similarity: Similarity, queries: np.ndarray, features: np.ndarray) -> np.ndarray:
    """float64 [n], of n features and those of their images, [n, d] or of both orientations [2, n, d], where the closer counts."""
    first, second = queries.astype(np.float64).reshape(-1, *features.shape), features.astype(np.float64)
    if similarity.metric == "l2":
        return np.asarray(np.sqrt(((first - second) ** 2).sum(2)).min(0))
    return np.asarray((first * second).sum(2).max(0))


def ceilings_metrics(artifacts: Artifacts) -> dict[str, Any]:
    """The entry of one similarity in `ceilings` of metrics.json. Raises Damaged."""
    cut, bands, table = find_cut(artifacts), bands_of(artifacts.config), artifacts.ceilings.read(0)
    larger = bands.larger_is_closer
    changes = {}
    for name in LOSSES:
        values = table.column(name).to_numpy()
        near, far = np.quantile(values, [0.95, 0.05] if larger else [0.05, 0.95])
        # As close as the edge or closer: a band that ends below it would not hold the image as it is.
        edges = {band: ends[0] if larger else ends[1] for band, ends in bands.bands.items()}
        within = {
            band: 1.0
            if edge is None
            else float((closeness_of(values, larger) >= closeness_of(np.float32(edge), larger)).mean())
            for band, edge in edges.items()
        }
        changes[name] = {
            "median": float(np.median(values)),
            "closest_5_percent": float(near),
            "farthest_5_percent": float(far),
            "within_cut": None if cut is None else float(reaches(values, cut, larger).mean()),
            "within_bands": within,
        }
    height, width, _ = artifacts.prepare.info()["shape"]
    return {"n": table.num_rows, "side": min(height, width), "changes": changes}
