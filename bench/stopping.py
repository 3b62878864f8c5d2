"""Samples saved by early stopping, and whether it keeps a λ as good as the best one, on the digits sweep over 12 λ.

    python -m bench.stopping [--seeds 0 1 2] [--runs runs/stopping-{seed}]

For each seed, a sweep with early stopping runs first, then the whole grid in the same run directory, which adds the missing
samples. The samples of the first are counted before the second starts.
"""

import argparse
from pathlib import Path

from side_ray.config.file import load_config
from side_ray.execution.progress import Reporter
from side_ray.execution.session import shut_down
from side_ray.report.sweep import best, samples_made
from side_ray.studies.sweep import sweep

CONFIG = Path(__file__).parents[1] / "jobs" / "configs" / "digits_sweep.yaml"
GRID = ["sweep.lambdas=[0, 0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 50]", "sweep.classes=[100]"]
EARLY = ["sweep.early_stopping={after: [0.25, 0.5], keep: 0.5}"]


def one_seed(seed: int, run: str) -> str:
    settings = [f"run.seed={seed}", f"run.uri={run}", *GRID]
    reporter = Reporter()
    _, early = sweep(load_config(CONFIG, settings + EARLY), reporter)
    _, whole = sweep(load_config(CONFIG, settings), reporter)
    by_name = {each.name: each for each in whole}
    changed = [each.name for each in early if each.status == "finished" and each.metrics != by_name[each.name].metrics]
    kept, top = best(early, "ams", "calibrated"), best(whole, "ams", "calibrated")
    assert kept is not None
    assert top is not None
    assert kept.metrics is not None
    assert top.metrics is not None
    made, planned = samples_made(early)
    low, high = top.metrics["calibrated"]["ams_ci"]
    share = kept.metrics["calibrated"]["ams"]
    inside = "inside" if low <= share <= high else "OUTSIDE"
    return (
        f"seed {seed}: {made:,} of {planned:,} samples, {1 - made / planned:.0%} saved; kept λ = {kept.scale:g} with AMS "
        f"{share:.2%}, {inside} the interval {low:.2%}–{high:.2%} of the best (λ = {top.scale:g}, "
        f"{top.metrics['calibrated']['ams']:.2%}); {len(changed)} finished numbers changed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", default="runs/stopping-{seed}", help="run directory of each seed")
    options = parser.parse_args()
    lines = [one_seed(seed, options.runs.format(seed=seed)) for seed in options.seeds]
    shut_down()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
