"""Recomputes an nL2 audit's numbers from its Parquet files by brute force in float64. It imports nothing of side-ray.

`python tests/bruteforce.py RUN` compares the cut and every condition's AMS, UMS, `ums_best` and held-out counts, in every band,
cumulative band and at the calibrated cut, with `metrics.json`; and the strata, the excess, the discoveries, the ledger's
q-values, the verdict and the second opinions. It also checks the groups of training images that count as one.
"""

import io
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from scipy import stats

ALPHA, NEAREST = 0.5, 50
SIDE, BOUND = 16, 0.1


def images_of(table) -> np.ndarray:
    """float64 [N, H, W, C] pixel values in 0 … 255."""
    images = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table.column("image").to_pylist()]
    array = np.array([image / (1 if image.dtype == np.uint8 else 257) for image in images], float)
    return array[..., None] if array.ndim == 3 else array


def read(directory: Path, count: int | None = None):
    """The images of a table's `part-*.parquet`, in order; the first `count` rows."""
    tables = [
        pq.read_table(path, columns=["image"], partitioning=None) for path in sorted(directory.glob("part-*.parquet"))
    ]
    images = np.concatenate([images_of(table) for table in tables])
    return images if count is None else images[:count]


def split_of(directory: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images of one split of the prepared data and their groups, by id; empty if the audit has no unseen images."""
    tables = [
        pq.read_table(path, filters=[("split", "==", split)]) for path in sorted(directory.glob("part-*.parquet"))
    ]
    ids, groups = (np.concatenate([table.column(name).to_numpy() for table in tables]) for name in ("id", "group"))
    if not len(ids):
        return np.empty((0, 0, 0, 0)), groups
    images = np.concatenate([images_of(table) for table in tables if len(table)])
    return images[np.argsort(ids)], groups[np.argsort(ids)]


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Means over at most SIDE × SIDE blocks, rounded."""
    rows, columns = ([k * n // min(n, SIDE) for k in range(min(n, SIDE) + 1)] for n in image.shape[:2])
    cells = [
        [image[top:bottom, left:right].mean((0, 1)) for left, right in itertools.pairwise(columns)]
        for top, bottom in itertools.pairwise(rows)
    ]
    return np.rint(np.array(cells))


def near(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [N, M]: pairs that are equal, or differ by at most BOUND of the smaller contrast."""
    sets = [np.array([thumbnail(image) for image in each]) for each in (images, others)]
    contrasts = [np.sqrt(((each - each.mean((1, 2), keepdims=True)) ** 2).sum((1, 2, 3))) for each in sets]
    found = np.zeros((len(images), len(others)), bool)
    for row, (image, small, contrast) in enumerate(zip(images, sets[0], contrasts[0], strict=True)):
        difference = np.sqrt(((sets[1] - small) ** 2).sum((1, 2, 3)))
        smaller = np.minimum(contrast, contrasts[1])
        found[row] = (others == image).all((1, 2, 3)) | ((difference <= BOUND * smaller) & (smaller > 0))
    return found


def check_groups(split: str, images: np.ndarray, groups: np.ndarray, members: np.ndarray) -> list[str]:
    """Faults of the groups of one split, and unseen images that are members."""
    if not len(images):
        return []
    alike, same = near(images, images), groups[:, None] == groups
    equal = np.array([(images == image).all((1, 2, 3)) for image in images])
    faults = []
    if (same & ~alike).any():
        faults.append(f"{split}: images of one group are no near duplicates: {np.argwhere(same & ~alike)[:3].tolist()}")
    if (equal & ~same).any():
        faults.append(f"{split}: equal images are in several groups: {np.argwhere(equal & ~same)[:3].tolist()}")
    if (groups != same.argmax(1)).any():
        faults.append(f"{split}: a group is not named by its first image")
    # Complete linkage leaves no two groups of which all images are near duplicates of each other.
    names = np.unique(groups)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            if alike[name, other] and alike[np.ix_(groups == name, groups == other)].all():
                faults.append(f"{split}: groups {name} and {other} are one")
    if split != "member" and near(images, members).any():
        faults.append(f"{split}: holds copies of members")
    return faults


def apart(images: np.ndarray, rows: np.ndarray, groups: np.ndarray, flips: bool) -> np.ndarray:
    """float64 [N, M]: the distance of pixel values to each group."""
    found, names = [], np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    for image in images:
        versions = (image, image[:, ::-1]) if flips else (image,)
        distance = np.min([np.sqrt(((rows - each) ** 2).sum((1, 2, 3))) for each in versions], axis=0)
        if len(names) < len(groups):
            distance = np.array([distance[each].min() for each in members])
        found.append(distance)
    return np.array(found)


def nl2(samples: np.ndarray, train: np.ndarray, groups: np.ndarray, flips: bool) -> np.ndarray:
    """float32 [N, M]: distance to each group of training images over α times the mean of the 50 nearest, in float64."""
    rows = []
    for distance in apart(samples, train, groups, flips):
        mean = np.sort(distance)[:NEAREST].mean()
        rows.append(np.where(distance == 0, 0, distance / (ALPHA * (mean or 1))))
    return np.array(rows).astype(np.float32)


def inside(values: np.ndarray, band: list, stricter: list[list]) -> np.ndarray:
    """Closed interval, without an edge that belongs to a stricter band."""
    low, high = (
        np.float32(-math.inf if band[0] is None else band[0]),
        np.float32(math.inf if band[1] is None else band[1]),
    )
    found = (values >= low) & (values <= high)
    for other in stricter:
        found &= ~((values == low) & (other[1] == band[0]))
    return found


def numbers(values: np.ndarray, holdout: np.ndarray | None, belongs) -> dict[str, int | None]:
    best = values.min(1)
    matched = belongs(best)
    return {
        "ams_count": int(matched.sum()),
        "ums_count": int(belongs(values).any(0).sum()),
        "ums_best_count": len(set(values.argmin(1)[matched].tolist())),
        "holdout_count": None if holdout is None else int(belongs(holdout.min(1)).sum()),
    }


def tie_order(images: np.ndarray) -> np.ndarray:
    """The fixed order of equally near images of the pool."""
    x = images.astype(np.uint64) + np.uint64(1)
    for shift, factor in ((31, 0x9E3779B97F4A7C15), (29, 0xBF58476D1CE4E5B9)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(32))


def strata_of(directory: Path, images: np.ndarray) -> np.ndarray:
    """The stratum of each image: that of the nearest centroid."""
    images = images.reshape(len(images), -1)
    table = pq.read_table(directory / "centroids.parquet")
    centroids = np.array(table.column("centroid").to_pylist())
    nearest = [int(((centroids - image) ** 2).sum(1).argmin()) for image in images]
    return table.column("stratum").to_numpy()[nearest]


def labels_of(directory: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The label of every image, −1 for none, and whether it is a member, in the order member, calibration, holdout; None if a set
    has no labels."""
    tables = [
        pq.read_table(path, columns=["id", "split", "label"], partitioning=None)
        for path in sorted(directory.glob("part-*.parquet"))
    ]
    rows = [row for table in tables for row in table.to_pylist()]
    found, member = [], []
    for split in ("member", "calibration", "holdout"):
        labels = [row["label"] for row in sorted(rows, key=lambda row: row["id"]) if row["split"] == split]
        if all(label is None for label in labels):
            return None
        found += [-1 if label is None else label for label in labels]
        member += [split == "member"] * len(labels)
    return np.array(found), np.array(member)


def divided(stratum: np.ndarray, labels: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Strata divided by class: classes of 25 images or more, of which chance explains the number of members, stand alone."""
    share, found, number = member.mean(), np.zeros(len(stratum), int), 0
    for name in sorted(set(stratum.tolist())):
        apart = []
        for label in sorted(set(labels[stratum == name].tolist()) - {-1}):
            cell = np.flatnonzero((stratum == name) & (labels == label))
            n, k = len(cell), int(member[cell].sum())
            chances = [math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(n + 1)]
            if n >= 25 and sum(c for c in chances if c <= chances[k] * (1 + 1e-7)) >= 1e-3:
                apart.append(cell)
        rest = np.setdiff1d(np.flatnonzero(stratum == name), np.concatenate([*apart, np.empty(0, int)]))
        if apart and len(rest) < 25:
            largest = max(range(len(apart)), key=lambda i: len(apart[i]))
            apart[largest] = np.concatenate([apart[largest], rest]).astype(int)
        else:
            apart.append(rest)
        for cell in apart:
            found[cell] = number
            number += 1
    return found


def typical_of(images: np.ndarray, names: np.ndarray, rows: np.ndarray, groups: np.ndarray, flips: bool) -> np.ndarray:
    """By image of the pool: −(its value with the nearest other image, normalized by the 49 nearest others)."""
    found = []
    for name in names:
        image = images[name]
        versions = (image, image[:, ::-1]) if flips else (image,)
        every = np.min([np.sqrt(((rows - each) ** 2).sum((1, 2, 3))) for each in versions], axis=0)
        others = np.sort([every[groups == other].min() for other in names if other != name])[: NEAREST - 1]
        found.append(0.0 if others[0] == 0 else -others[0] / (ALPHA * others.mean()))
    return np.array(found)


def q_values(scores: np.ndarray, member: np.ndarray, stratum: np.ndarray, typical: np.ndarray) -> np.ndarray:
    """By image: the smallest (m/d)(D + 1)/T at which it counts, ranked by how far it stands above what its stratum's images have
    with each other."""
    standing = np.array([s - np.median(typical[stratum == k]) for s, k in zip(scores, stratum, strict=True)])
    q = np.ones(len(scores))
    rates = [
        (
            limit,
            member.sum()
            / (~member).sum()
            * (1 + (~member & (standing >= limit)).sum())
            / (member & (standing >= limit)).sum(),
        )
        for limit in np.unique(standing[member & np.isfinite(standing)])
    ]
    for image in np.flatnonzero(member & np.isfinite(standing)):
        q[image] = min(1, *(rate for limit, rate in rates if limit <= standing[image]))
    return q


def best_by_image(values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """By image of the pool: −(the smallest value of a sample that it wins), −inf without one."""
    order = tie_order(names)
    scores = np.full(values.shape[1], -np.inf)
    for row in values:
        nearest = np.flatnonzero(row == row.min())
        winner = nearest[order[nearest].argmin()]
        scores[winner] = max(scores[winner], -row[winner])
    return scores


def equal_rate(values: np.ndarray, member: np.ndarray, chance_of, cut: float) -> tuple[float, float]:
    """The share of samples that match a random block of m unseen images, and the share that match a member, at a cut."""
    within = values <= cut
    return np.mean([chance_of(int(u)) for u in within[:, ~member].sum(1)]), within[:, member].any(1).mean()


def check_rates(root: Path, latest: dict, metrics: dict, condition: dict, sets: dict, flips: bool) -> list[tuple]:
    """The cuts that both sets of unseen images give, and the matches of one condition at them."""
    name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
    samples, found = read(root / latest["samples"][name], condition["n"]), []
    best = nl2(samples, *sets["member"], flips).min(1)
    for place, (split, other) in enumerate((("calibration", "holdout"), ("holdout", "calibration"))):
        cut = np.float32(metrics["crossfit"][f"{split}_cut"])
        held = nl2(samples, *sets[other], flips).min(1)
        for key, values in (("ams_counts", best), ("unseen_counts", held)):
            found.append((f"{name} crossfit.{key}", condition["crossfit"][key][place], int((values <= cut).sum())))
    for key in ("ams", "unseen"):
        share = sum(condition["crossfit"][f"{key}_counts"]) / (2 * condition["n"])
        found.append((f"{name} crossfit.{key}", condition["crossfit"][key], share))
    return found


def p_of_difference(one: np.ndarray, other: np.ndarray, member: np.ndarray, count: int, chance_of) -> float:
    """The two-sided p-value of a difference of excess, from bool [N, m + d], which images each sample is within the cut of.

    The larger one of a t-test, whose variance is that of the samples' differences and of the unseen images, and of the share of
    all signs of the differences whose sum is as far from 0.
    """
    m, d, n = int(member.sum()), int((~member).sum()), len(one)
    chances = [np.array([chance_of(int(u)) for u in each[:, ~member].sum(1)]) for each in (one, other)]
    hits = [each[:, member].any(1).astype(float) for each in (one, other)]
    steps = (hits[0] - chances[0]) - (hits[1] - chances[1])
    # Every sign, on a grid.
    differ = steps[abs(steps) > 1e-12]
    if not len(differ):
        return 1.0
    grid, sums = 16 * max(math.floor(2**11 / abs(differ).sum()), 2), np.ones(1)
    for size in np.rint(abs(differ) * grid).astype(int).tolist():
        sums = (np.pad(sums, (0, 2 * size)) + np.pad(sums, (2 * size, 0))) / 2
    far = math.ceil(abs(differ.sum()) * grid - 1.5 * math.sqrt(len(differ)))
    by_signs = 2 * sums[len(sums) // 2 + far :].sum() if far > 0 else 1.0
    # Unseen images, without each fold of them in turn.
    rng = np.random.default_rng(0)
    rng.permutation(m)
    fold = rng.permutation(d) % count
    shares = []
    for number in range(count):
        kept, size = fold != number, int((fold == number).sum())

        def part(u: int, left: int = d - size) -> float:
            if left <= m:
                return (u > 0) * m / max(left, 1)
            return 1 - math.comb(left - u, m) / math.comb(left, m)

        share = []
        for each in (one, other):
            values, often = np.unique(each[:, ~member][:, kept].sum(1), return_counts=True)
            share.append(np.dot([part(int(u)) for u in values], often) / n)
        shares.append(share[0] - share[1])
    jackknife = (count - 1) / count * ((np.array(shares) - np.mean(shares)) ** 2).sum()
    within = [each[:, ~member].sum(1) for each in (one, other)]
    alone = (within[0] > 0) != (within[1] > 0)
    noise = (
        sum((c[alone & (u > 0)] ** 2 / u[alone & (u > 0)]).sum() for c, u in zip(chances, within, strict=True)) / n**2
    )
    variance = steps.var(ddof=1) / n
    uncertainty = variance**2 / (n - 1)
    if jackknife > noise:
        variance += (1 + d / m) * (jackknife - noise)
        uncertainty += ((1 + d / m) * jackknife) ** 2 / (count - 1)
    if not variance:
        return 1.0
    t, freedom = abs(steps.mean()) / math.sqrt(variance), variance**2 / uncertainty
    return max(by_signs, 2 * float(stats.t.sf(t, freedom)))


def check_growth(name: str, reported: dict, counts: np.ndarray, n: int, limit: int) -> list[tuple]:
    """Distinct revealed images, sample coverage (Chao & Jost 2012) and Chao2, from how often each was matched."""
    counts = counts[counts > 0]
    once, twice, total = int((counts == 1).sum()), int((counts == 2).sum()), int(counts.sum())
    share = (n - 1) / n
    unseen = share * once**2 / (2 * twice) if twice else share * once * (once - 1) / 2
    if twice:
        weight = (n - 1) * once / ((n - 1) * once + 2 * twice)
    else:
        weight = (n - 1) * (once - 1) / ((n - 1) * (once - 1) + 2) if once > 1 else 0.0
    coverage = 1 - once / total * weight if total else 0.0
    found = [
        (f"{name} reach.distinct", reported["distinct"], len(counts)),
        (f"{name} coverage", reported["coverage"], coverage),
    ]
    if reported["chao2"] is None:
        return [*found, (f"{name} reach.chao2 is withheld", coverage < 0.5, True)]
    most = max(row["distinct"] for row in reported["curve"])
    found.append((f"{name} reach.chao2", reported["chao2"]["value"], min(len(counts) + unseen, limit)))
    return [*found, (f"{name} reach.curve is within the training set", most <= limit + 1e-9, True)]


def check_ledger(
    table, members: np.ndarray, names: np.ndarray, rows: np.ndarray, groups: np.ndarray, flips: bool
) -> list[tuple]:
    """Local density, and the nearest unseen image of an exact copy, of every member."""
    distance, nearest = [], []
    for image in members:
        every = np.min(
            [np.sqrt(((rows - each) ** 2).sum((1, 2, 3))) for each in ((image, image[:, ::-1]) if flips else (image,))],
            axis=0,
        )
        every = np.array([every[groups == name].min() for name in names])
        distance.append(np.sort(every)[:NEAREST].mean())
        nearest.append(every[names >= len(members)].min() / (ALPHA * distance[-1]))
    found = []
    for i, (density, unseen) in enumerate(
        zip(table.column("local_density"), table.column("nearest_unseen"), strict=True)
    ):
        found.append(_nearly(f"ledger local density of {i}", density.as_py(), np.median(distance) / distance[i]))
        found.append(_nearly(f"ledger nearest unseen of {i}", unseen.as_py(), nearest[i]))
    return found


def _nearly(what: str, reported: float, own: float) -> tuple[str, float, float]:
    """For `check`: the two count as equal if they differ by no more than float32 does."""
    return what, reported, reported if math.isclose(reported, own, rel_tol=1e-4) else own


def features_in(directory: Path, split: str | None = None) -> np.ndarray:
    """float64 [N, d], the stored features of samples, or of the images of a split by id."""
    chosen = None if split is None else [("split", "==", split)]
    tables = [
        pq.read_table(path, filters=chosen, partitioning=None) for path in sorted(directory.glob("part-*.parquet"))
    ]
    features = np.concatenate([np.array(table.column("feature").to_pylist(), float) for table in tables if len(table)])
    if split is None:
        return features
    return features[np.argsort(np.concatenate([table.column("id").to_numpy() for table in tables]))]


def by_vectors(features: np.ndarray, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64 [N, M]: the distance of unit vectors to each group."""
    distance = np.sqrt(np.maximum(2 - 2 * np.clip(features @ rows.T, -1, 1), 0))
    return np.stack([distance[:, groups == name].min(1) for name in np.unique(groups)], 1)


def rounded(distance: np.ndarray) -> np.ndarray:
    """The same from cosines in float32, as neighbours are stored."""
    return np.sqrt(np.maximum(2 - 2 * np.float32(1 - distance**2 / 2).astype(float), 0))


def third(distance: np.ndarray) -> int:
    """How many are three times nearer to the nearest than to the second-nearest image."""
    near = np.sort(distance, axis=1)
    return int((3 * near[:, 0] < near[:, 1]).sum())


def c_t(samples: np.ndarray, cells: np.ndarray, unseen: np.ndarray, unseen_cells: np.ndarray) -> float | None:
    """Meehan et al.'s statistic, pair by pair."""
    kept = [cell for cell in set(cells.tolist()) if (cells == cell).sum() > 20 and (unseen_cells == cell).any()]
    if len(samples) <= 20:
        return None
    if not kept:
        kept, cells, unseen_cells = [0], 0 * cells, 0 * unseen_cells
    total = weight = 0.0
    for cell in kept:
        own, other = samples[cells == cell], unseen[unseen_cells == cell]
        m, n = len(own), len(other)
        u = sum((one > other).sum() + (one == other).sum() / 2 for one in own)
        total += n * (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
        weight += n
    return total / weight


def check_frechet(what: str, reported: dict, own: np.ndarray, members: np.ndarray, nearest: np.ndarray) -> list[tuple]:
    """The Fréchet distance by the eigenvalues of C₁C₂, and its weight."""
    one, other = np.cov(own.T), np.cov(members.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(one @ other).real, 0)).sum()
    value = ((own.mean(0) - members.mean(0)) ** 2).sum() + np.trace(one) + np.trace(other) - 2 * root
    mean = (nearest**2 / 2).mean()
    # The roots of eigenvalues that are 0 but for rounding.
    noise = 1e-6 * (np.trace(one) + np.trace(other))
    kept = reported["value"] if abs(reported["value"] - value) < noise else value
    return [
        (f"{what} frechet.value", reported["value"], kept),
        (f"{what} frechet.images", reported["images"], len(own)),
        _nearly(f"{what} frechet.nearest", reported["nearest"], mean),
        _nearly(f"{what} frechet.informed", reported["informed"], kept / (mean + 1e-15 if mean < 0.1 else 1)),
    ]


def check_opinions(root: Path, latest: dict, metrics: dict, sets: dict, shown: dict, flips: bool) -> list[str]:
    """Differences in the second opinions: Gu's ratio, authenticity, C_T and the Fréchet distance, by every similarity."""
    groups, expected = {split: own for split, (_, own) in sets.items()}, []
    first = {split: own == np.arange(len(own)) for split, own in groups.items()}
    names, labels = np.unique(groups["member"]), labels_of(root / latest["prepare"])
    for by, reported in metrics["second_opinions"].items():
        place = latest.get("descriptors", {}).get(by)
        if place is not None and (flips or metrics["reconstructions"]):
            continue  # such features of images are not stored
        if place is None:
            vectors = {split: images for split, (images, _) in sets.items()}
        else:
            vectors = {split: features_in(root / place["images"], split) for split in sets if len(groups[split])}

        def far(queries: np.ndarray, split: str, place=place, vectors=vectors) -> np.ndarray:
            if place is None:
                return apart(queries, *shown[split], flips)
            return by_vectors(queries, vectors[split], groups[split])

        def drawn(row: dict, place=place) -> np.ndarray:
            name = f"method={row['method']}/lambda={float(row['lambda'])}"
            if place is None:
                return read(root / latest["samples"][name], row["n"])
            return features_in(root / place["samples"][name])[: row["n"]]

        stored = rounded if place is not None else (lambda distance: distance)
        queries = {f"{by} {row['method']} {row['lambda']}": (row, drawn(row)) for row in reported["conditions"]}
        distances = {what: far(images, "member") for what, (_, images) in queries.items()}
        if len(names) > 1:
            for what, (row, _) in queries.items():
                expected.append((f"{what} ratio", row["ratio"]["count"], third(stored(distances[what]))))
        if reported["unseen"] is None:
            continue
        every = strata_of(
            root / (latest["strata"] if place is None else place["strata"]), np.concatenate(list(vectors.values()))
        )
        cells = (every if labels is None else divided(every, *labels))[names]
        between = far(vectors["member"][first["member"]], "member")
        spacing = (between + np.where(np.eye(len(names)), np.inf, 0)).min(1)
        held = {split: far(vectors[split][first[split]], "member") for split in ("calibration", "holdout")}
        queries["unseen"] = (reported["unseen"], np.concatenate([vectors[split][first[split]] for split in held]))
        distances["unseen"] = np.concatenate(list(held.values()))
        test = held["holdout"]
        for what, (row, images) in queries.items():
            own = distances[what]
            nearest = own.argmin(1)
            if row["authenticity"] is not None:
                authentic = int((own.min(1) > spacing[nearest]).sum())
                expected.append((f"{what} authenticity", row["authenticity"]["count"], authentic))
            if row["frechet"] is not None:
                whole = images if what != "unseen" else np.concatenate([vectors[split] for split in held])
                expected += check_frechet(what, row["frechet"], whole, vectors["member"], own.min(1))
            compared = held["calibration"] if what == "unseen" else own
            z = c_t(compared.min(1), cells[compared.argmin(1)], test.min(1), cells[test.argmin(1)])
            if z is not None:
                expected.append(_nearly(f"{what} copying.z", row["copying"]["z"], z))
            if row["ratio"] is None:
                continue
            if what == "unseen":
                expected.append((f"{what} ratio", row["ratio"]["count"], third(own)))
            else:
                both = np.concatenate([far(images, split) for split in held], 1)
                among = row["ratio"]["against_unseen"]["count"]
                expected.append((f"{what} ratio.against_unseen", among, third(stored(both))))
    return [f"{what}: {a} is reported, {b} is found" for what, a, b in expected if not math.isclose(a, b, abs_tol=1e-9)]


def check_evidence(root: Path, latest: dict, metrics: dict, sets: dict, shown: dict, flips: bool) -> list[str]:
    """Differences in the strata, the excess, the discoveries, the q-values and the verdict; groups count as one image. `shown`:
    the images of `sets` and their reconstructions."""
    images, starts = np.concatenate([each for each, _ in sets.values()]), [0]
    for each, _ in sets.values():
        starts.append(starts[-1] + len(each))
    groups = np.concatenate([start + own for start, (_, own) in zip(starts, sets.values(), strict=False)])
    names = np.unique(groups)
    rows = np.concatenate([each for each, _ in shown.values()])
    kinds = np.concatenate([start + own for start, (_, own) in zip(starts, shown.values(), strict=False)])
    member = names < starts[1]
    m, d = int(member.sum()), int((~member).sum())
    every = strata_of(root / latest["strata"], images)
    labels = labels_of(root / latest["prepare"])
    stratum = (every if labels is None else divided(every, *labels))[names]
    typical = typical_of(images, names, rows, kinds, flips)
    stored = pq.read_table(root / latest["strata"] / "strata.parquet").column("stratum").to_numpy()
    faults = [] if (every == stored).all() else ["strata: an image is in another one"]
    table, hits = pq.read_table(root / latest["report"] / "ledger.parquet"), []
    pooled, cut, expected = np.full(m + d, -np.inf), np.float32(metrics["cut"]), []
    matched: dict[tuple[str, float], np.ndarray] = {}
    folds = max(2, min(100, starts[1], starts[-1] - starts[1]))
    costs = [each["equal_cost"]["per_sample"] * each["n"] for each in metrics["conditions"] if "equal_cost" in each]
    for condition in metrics["conditions"]:
        name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
        values = nl2(read(root / latest["samples"][name], condition["n"]), rows, kinds, flips)
        hits.append((values <= cut)[:, member].sum(0))
        scores = best_by_image(values, names)
        pooled = np.maximum(pooled, scores)
        within = values <= cut
        matched[condition["method"], condition["lambda"]] = within
        u = within[:, ~member].sum(1)

        def chance_of(k: int) -> float:
            return 1 - math.comb(d - k, m) / math.comb(d, m) if d >= m else (k > 0) * m / d

        excess = within[:, member].any(1).mean() - np.mean([chance_of(int(k)) for k in u])
        for row in condition["equal_rates"]:
            # The cut is the value of a pair, rounded by two normalizations in float32: another pair may be as close to it.
            ends = [equal_rate(values, member, chance_of, row["cut"] * (1 + step)) for step in (-2e-6, 2e-6)]
            for (low, high), what in zip(zip(*ends, strict=True), ("unseen", "matches"), strict=True):
                nearest = min(max(row[what], low), high)
                expected.append((f"{name} {what} at {row['rate']}", row[what], nearest))
            # The next value would exceed the rate.
            at = row["cut"] * (1 + 2e-6)
            beyond = np.unique(values[:, ~member][values[:, ~member] > at]).min()
            next_one = equal_rate(values, member, chance_of, beyond * (1 + 2e-6))[0]
            kept = row["unseen"] <= row["rate"] * (1 + 1e-9) < next_one
            expected.append((f"{name} cut at {row['rate']} is the loosest", kept, True))
        expected += check_rates(root, latest, metrics, condition, shown, flips)
        expected.append((f"{name} excess", condition["excess"], excess))
        if over := condition.get("excess_over_random"):
            random = matched["random", 0.0]
            other = random[:, member].any(1).mean() - np.mean([chance_of(int(k)) for k in random[:, ~member].sum(1)])
            expected.append((f"{name} excess_over_random", over["difference"], excess - other))
            p_value = p_of_difference(within, random, member, folds, chance_of)
            # Rounding to the grid may take a difference to either side.
            agrees = math.isclose(over["p_value"], p_value, rel_tol=0.02, abs_tol=1e-12)
            expected.append(
                (f"{name} excess_over_random.p_value", over["p_value"], over["p_value"] if agrees else p_value)
            )
        if paid := condition.get("equal_cost"):
            n = math.floor(min(costs) / paid["per_sample"] * (1 + 1e-12))
            some = q_values(best_by_image(values[:n], names), member, stratum, typical)
            expected.append((f"{name} equal_cost.samples", paid["samples"], n))
            expected.append((f"{name} equal_cost.distinct", paid["distinct"], int((some <= 0.05).sum())))
        q = q_values(scores, member, stratum, typical)
        expected += [
            (f"{name} discoveries.{level}", condition["discoveries"][level]["distinct"], (q <= float(level)).sum())
            for level in ("0.01", "0.05")
        ]
    q, verdict = q_values(pooled, member, stratum, typical), metrics["verdict"]
    counted = int((q <= 0.05).sum())
    # Reason `captions`: there is evidence, but no claim, because the prompts favour members.
    evident = verdict["outcome"] == "found" or verdict["reason"] == "captions"
    expected.append(("verdict.distinct", verdict["distinct"], counted or int(evident)))
    if verdict["stratum_rate"] is None:
        expected.append(("verdict.copied", verdict["copied"], ((q <= 0.05) & (pooled >= -cut)).sum()))
    found = counted > 0 or verdict["p_value"] <= 0.01
    expected.append(("verdict found", evident, found))
    expected.append(("strata", metrics["strata"], len(set(stratum.tolist()))))
    ledger = table.column("q_value").to_numpy()
    own = np.searchsorted(names, groups[: starts[1]])
    revealed = q[member] <= 0.05
    for condition, counts in zip(metrics["conditions"], hits, strict=True):
        name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
        expected += check_growth(name, condition["reach"], counts[revealed], condition["n"], m)
    for image, found_in in enumerate(table.column("condition_matches").to_pylist()):
        expected += [(f"ledger matches of {image}", a, b[own[image]]) for a, b in zip(found_in, hits, strict=True)]
    expected += check_ledger(table, images[: starts[1]], names, rows, kinds, flips)
    expected.append(("ledger.revealed", metrics["ledger"]["revealed"], int(revealed.sum())))
    expected += [(f"ledger q of {image}", ledger[image], q[place]) for image, place in enumerate(own)]
    faults += [
        f"{what}: {a} is reported, {b} is found" for what, a, b in expected if not math.isclose(a, b, abs_tol=1e-9)
    ]
    return faults


def check(run: str | Path) -> list[str]:
    """Differences between the brute-force numbers and `metrics.json`, one line each; empty if all agree."""
    root = Path(run)
    latest = json.loads((root / "latest.json").read_text())
    metrics = json.loads((root / latest["report"] / "metrics.json").read_text())
    sets = {name: split_of(root / latest["prepare"], name) for name in ("member", "calibration", "holdout")}
    faults = [fault for name, each in sets.items() for fault in check_groups(name, *each, sets["member"][0])]
    flips = metrics["similarity"].get("flips", False)
    shown = dict(sets)
    if metrics.get("reconstructions"):
        # A reconstruction shows the same image, so it is one more of its group.
        for split, (images, groups) in sets.items():
            again = read(root / latest["reconstructions"][f"split={split}"])
            shown[split] = np.concatenate([images, again]), np.concatenate([groups, groups])

    def scored(samples: np.ndarray, split: str) -> np.ndarray:
        return nl2(samples, *shown[split], flips)

    cut = None
    if len(sets["calibration"][0]):
        synthetic = read(root / latest["synthetic"], metrics["cut_n"])
        rate = metrics["false_match_rate"]
        best = np.sort(scored(synthetic, "calibration").min(1))
        cut = best[max(1, math.floor(round(len(best) * rate, 9))) - 1]
        other = np.sort(scored(synthetic, "holdout").min(1))[max(1, math.floor(round(len(best) * rate, 9))) - 1]
        if (
            other != np.float32(metrics["crossfit"]["holdout_cut"])
            or metrics["crossfit"]["calibration_cut"] != metrics["cut"]
        ):
            faults.append(f"crossfit: {metrics['crossfit']} is reported, {cut} and {other} are found")
    if (cut is None) != (metrics["cut"] is None) or (cut is not None and cut != np.float32(metrics["cut"])):
        faults.append(f"cut: {metrics['cut']} is reported, {cut} is found")

    bands = metrics["similarity"]["bands"]
    for condition in metrics["conditions"]:
        name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
        samples = read(root / latest["samples"][name], condition["n"])
        values = scored(samples, "member")
        held = scored(samples, "holdout") if len(sets["holdout"][0]) else None
        wanted = {} if cut is None else {("calibrated",): numbers(values, held, lambda v: v <= cut)}
        for kind in ("bands", "cumulative"):
            for band, edges in bands[kind].items():
                stricter = [other for key, other in bands["bands"].items() if key != band] if kind == "bands" else []
                wanted[kind, band] = numbers(values, held, lambda v, e=edges, s=stricter: inside(v, e, s))
        for path, expected in wanted.items():
            reported = condition
            for key in path:
                reported = reported[key]
            for key, value in expected.items():
                share = reported[key.removesuffix("_count") if key != "holdout_count" else "holdout_ams"]
                same = (
                    share is None if value is None else share is not None and math.isclose(share, value / len(samples))
                )
                if reported[key] != value or not same:
                    faults.append(
                        f"{name} {'.'.join(path)}.{key}: {reported[key]} ({share}) is reported, {value} is found"
                    )
    faults += check_opinions(root, latest, metrics, sets, shown, flips)
    return faults if cut is None else faults + check_evidence(root, latest, metrics, sets, shown, flips)


def main(arguments: list[str]) -> int:
    """Print the differences, or that there are none; one line where the directory is no finished run."""
    if len(arguments) != 1:
        print("give one run directory: python tests/bruteforce.py RUN")
        return 2
    try:
        found = check(arguments[0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        print(
            f"{arguments[0]} is no finished run that can be checked: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        )
        return 2
    print("\n".join(found) or "every number agrees")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
