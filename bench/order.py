"""The paper's order at the calibrated cut (SIDE > Random > OL-TI), pooled over runs with different seeds.

`python -m bench.order RUN [RUN …]` chooses the λ of each method on the samples with even ids and measures on those with odd ids,
so that the choice does not bias the result. Each λ is chosen once, by the AMS pooled over all runs.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq


class Half(NamedTuple):
    """One half of the samples at the calibrated cut: number of samples, of matches, and of distinct best matches."""

    n: int
    matches: int
    distinct: int


def halves(run: Path) -> dict[tuple[str, float], tuple[Half, Half]]:
    """The even and the odd half of every condition of a run."""
    latest = json.loads((run / "latest.json").read_text())
    metrics = json.loads((run / latest["report"] / "metrics.json").read_text())
    found = {}
    for condition in metrics["conditions"]:
        key = condition["method"], float(condition["lambda"])
        directory = run / latest["scores"][f"method={key[0]}/lambda={key[1]}"]
        columns = ["sample_id", "best_id", "best"]
        tables = [
            pq.read_table(path, columns=columns, partitioning=None) for path in sorted(directory.glob("part-*.parquet"))
        ]
        ids, best_id, best = (np.concatenate([table.column(name).to_numpy() for table in tables]) for name in columns)
        matched = best <= np.float32(metrics["cut"])
        found[key] = tuple(
            Half(int(half.sum()), int((half & matched).sum()), len(np.unique(best_id[half & matched])))
            for half in (ids % 2 == 0, ids % 2 == 1)
        )
    return found


def pooled(runs: list[Path]) -> dict[str, tuple[float, list[Half]]]:
    """For each method: the best λ on the even halves of all runs, and the odd half of each run at this λ."""
    each = [halves(run) for run in runs]
    shared = set.intersection(*(set(found) for found in each))
    chosen = {}
    for method in sorted({name for name, _ in shared}):
        scales = sorted(scale for name, scale in shared if name == method)
        best = max(scales, key=lambda scale: sum(found[method, scale][0].matches for found in each))
        chosen[method] = best, [found[method, best][1] for found in each]
    return chosen


def main(arguments: list[str]) -> None:
    found = pooled([Path(name) for name in arguments])
    totals = {method: Half(*map(sum, zip(*odd, strict=True))) for method, (_, odd) in found.items()}
    print(f"{'method':8}{'λ':>5}  {'AMS %':>7}  {'UMS by best match %':>20}   each run (matches/distinct of n)")
    for method, (scale, odd) in found.items():
        total = totals[method]
        runs = "  ".join(f"{half.matches}/{half.distinct} of {half.n}" for half in odd)
        print(
            f"{method:8}{scale:5g}  {100 * total.matches / total.n:7.2f}  {100 * total.distinct / total.n:20.2f}   {runs}"
        )
    for method, total in totals.items():
        if method != "random":
            base = totals["random"]
            print(
                f"{method} / random: AMS × {total.matches / base.matches:.2f}, "
                f"by best match × {total.distinct / base.distinct:.2f}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
