"""Recomputes an nL2 audit's numbers from its Parquet files by brute force in float64. It imports nothing of side-ray.

`python tests/bruteforce.py RUN` compares the cut and every condition's AMS, UMS, `ums_best` and held-out counts, in every band,
cumulative band and at the calibrated cut, with `metrics.json`; and the strata, the excess, the discoveries, the ledger's q-values
and the verdict.
"""

import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

ALPHA, NEAREST = 0.5, 50


def images_of(table) -> np.ndarray:
    """float64 [N, d] pixel values."""
    return np.array(
        [np.asarray(Image.open(io.BytesIO(row["bytes"]))).ravel() for row in table.column("image").to_pylist()], float
    )


def read(directory: Path, count: int | None = None):
    """The images of a table's `part-*.parquet`, in order; the first `count` rows."""
    tables = [
        pq.read_table(path, columns=["image"], partitioning=None) for path in sorted(directory.glob("part-*.parquet"))
    ]
    images = np.concatenate([images_of(table) for table in tables])
    return images if count is None else images[:count]


def split_of(directory: Path, split: str) -> np.ndarray:
    """The images of one split of the prepared data, by id; empty if the audit has no unseen images."""
    tables = [
        pq.read_table(path, filters=[("split", "==", split)]) for path in sorted(directory.glob("part-*.parquet"))
    ]
    ids = np.concatenate([table.column("id").to_numpy() for table in tables])
    if not len(ids):
        return np.empty((0, 0))
    return np.concatenate([images_of(table) for table in tables if len(table)])[np.argsort(ids)]


def nl2(samples: np.ndarray, train: np.ndarray) -> np.ndarray:
    """float32 [N, M]: distance over α times the mean of the 50 nearest, computed in float64."""
    rows = []
    for sample in samples:
        distance = np.sqrt(((train - sample) ** 2).sum(1))
        rows.append(distance / (ALPHA * np.sort(distance)[:NEAREST].mean()))
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
    table = pq.read_table(directory / "centroids.parquet")
    centroids = np.array(table.column("centroid").to_pylist())
    nearest = [int(((centroids - image) ** 2).sum(1).argmin()) for image in images]
    return table.column("stratum").to_numpy()[nearest]


def q_values(scores: np.ndarray, member: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """By image: the smallest (m/d)(D + 1)/T at which it counts, ranked by how far it stands above its stratum's median."""
    standing = np.array(
        [s - np.median(scores[(stratum == k) & np.isfinite(scores)]) for s, k in zip(scores, stratum, strict=True)]
    )
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


def best_by_image(values: np.ndarray) -> np.ndarray:
    """By image of the pool: −(the smallest value of a sample that it wins), −inf without one."""
    order = tie_order(np.arange(values.shape[1]))
    scores = np.full(values.shape[1], -np.inf)
    for row in values:
        nearest = np.flatnonzero(row == row.min())
        winner = nearest[order[nearest].argmin()]
        scores[winner] = max(scores[winner], -row[winner])
    return scores


def check_evidence(root: Path, latest: dict, metrics: dict, train: np.ndarray, unseen: np.ndarray) -> list[str]:
    """Differences in the strata, the excess, the discoveries, the q-values and the verdict."""
    images, m, d = np.concatenate([train, unseen]), len(train), len(unseen)
    member = np.arange(m + d) < m
    stratum = strata_of(root / latest["strata"], images)
    stored = pq.read_table(root / latest["strata"] / "strata.parquet").column("stratum").to_numpy()
    faults = [] if (stratum == stored).all() else ["strata: an image is in another one"]
    pooled, cut, expected = np.full(m + d, -np.inf), np.float32(metrics["cut"]), []
    for condition in metrics["conditions"]:
        name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
        values = nl2(read(root / latest["samples"][name], condition["n"]), images)
        scores = best_by_image(values)
        pooled = np.maximum(pooled, scores)
        within = values <= cut
        u = within[:, m:].sum(1)
        chance = [1 - math.comb(d - int(k), m) / math.comb(d, m) if d >= m else (k > 0) * m / d for k in u]
        excess = within[:, :m].any(1).mean() - np.mean(chance)
        expected.append((f"{name} excess", condition["excess"], excess))
        q = q_values(scores, member, stratum)
        expected += [
            (f"{name} discoveries.{level}", condition["discoveries"][level]["distinct"], (q <= float(level)).sum())
            for level in ("0.01", "0.05")
        ]
    q, verdict = q_values(pooled, member, stratum), metrics["verdict"]
    counted = int((q <= 0.05).sum())
    expected.append(("verdict.distinct", verdict["distinct"], counted or int(verdict["outcome"] == "found")))
    if verdict["stratum_rate"] is None:
        expected.append(("verdict.copied", verdict["copied"], ((q <= 0.05) & (pooled >= -cut)).sum()))
    found = counted > 0 or verdict["p_value"] <= 0.01
    expected.append(("verdict found", verdict["outcome"] == "found", found))
    ledger = pq.read_table(root / latest["report"] / "ledger.parquet").column("q_value").to_numpy()
    expected += [(f"ledger q of {image}", ledger[image], q[image]) for image in range(m)]
    faults += [
        f"{what}: {a} is reported, {b} is found" for what, a, b in expected if not math.isclose(a, b, abs_tol=1e-9)
    ]
    return faults


def check(run: str | Path) -> list[str]:
    """Differences between the brute-force numbers and `metrics.json`, one line each; empty if all agree."""
    root = Path(run)
    latest = json.loads((root / "latest.json").read_text())
    metrics = json.loads((root / latest["report"] / "metrics.json").read_text())
    train, calibration, holdout = (
        split_of(root / latest["prepare"], name) for name in ("member", "calibration", "holdout")
    )
    faults = []

    cut = None
    if len(calibration):
        synthetic = read(root / latest["synthetic"], metrics["cut_n"])
        rate = metrics["false_match_rate"]
        best = np.sort(nl2(synthetic, calibration).min(1))
        cut = best[max(1, math.floor(round(len(best) * rate, 9))) - 1]
    if (cut is None) != (metrics["cut"] is None) or (cut is not None and cut != np.float32(metrics["cut"])):
        faults.append(f"cut: {metrics['cut']} is reported, {cut} is found")

    bands = metrics["similarity"]["bands"]
    for condition in metrics["conditions"]:
        name = f"method={condition['method']}/lambda={float(condition['lambda'])}"
        samples = read(root / latest["samples"][name], condition["n"])
        values, held = nl2(samples, train), nl2(samples, holdout) if len(holdout) else None
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
    return (
        faults
        if cut is None
        else faults + check_evidence(root, latest, metrics, train, np.concatenate([calibration, holdout]))
    )


if __name__ == "__main__":
    found = check(sys.argv[1])
    print("\n".join(found) or "every number agrees")
    sys.exit(bool(found))
