"""The paper's claim on the digits audit: SIDE extracts more than Random, and OL-TI less."""

from pathlib import Path

import pytest

from bench.order import Half, pooled
from side_ray.algorithm import run_until
from side_ray.config.file import load_config
from side_ray.execution.progress import Reporter
from tests.bruteforce import check

DIGITS = Path(__file__).parents[2] / "jobs" / "configs" / "digits.yaml"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_side_beats_random_and_time_independent_guidance_does_not(ray_session, tmp_path):
    runs = [tmp_path / f"seed-{seed}" for seed in range(3)]
    for seed, run in enumerate(runs):
        run_until("report", load_config(DIGITS, [f"run.uri={run}", f"run.seed={seed}"]), Reporter())
        assert check(run) == []
    totals = {method: Half(*map(sum, zip(*odd, strict=True))) for method, (_, odd) in pooled(runs).items()}
    random, side, ti = (totals[method] for method in ("random", "td", "ti"))
    assert 0.02 <= random.matches / random.n <= 0.15
    assert side.matches >= 2 * random.matches
    assert side.distinct >= 1.5 * random.distinct
    assert ti.matches < random.matches
