"""What must hold of an audit on a thousand GPUs, by the simulator of `bench/scale.py`, which drives the real shard logic."""

import pytest

from bench.scale import PAGE, World, driver, simulate

pytestmark = pytest.mark.long


def test_a_thousand_gpus_are_used_well_in_spite_of_pre_emption():
    result = simulate(World(1000), samples=100_000_000, shard_size=2000)
    assert result["preemptions"] > 50
    assert result["utilisation"] >= 0.95
    # At most the shard that is under way is lost with a machine.
    assert result["lost_gpu_hours"] <= 1.5 * result["preemptions"] * 2000 / 10 / 3600


@pytest.mark.parametrize("seed", range(3))
def test_a_lost_driver_costs_no_finished_shard_and_few_listings(seed):
    world = World(50, preempted=2.0, driver_lost=20.0, failed=0.1, start_s=20)
    result = simulate(world, samples=1_000_000, shard_size=100, seed=seed)
    assert result["driver_losses"] > 3
    assert result["retries"] > 100
    # Each condition has a listing of its own, whose last page may not be full.
    assert result["lists_per_1000_shards"] <= 1 + result["conditions"] * PAGE / result["shards"]
    at_risk = world.actors * (result["driver_losses"] + result["preemptions"] / world.actors)
    assert result["lost_gpu_hours"] <= 1.5 * at_risk * 100 / 10 / 3600
    assert result["hours"] < result["hours_without_resume"]


def test_nothing_is_lost_where_nothing_fails():
    result = simulate(World(8, preempted=0, driver_lost=0, failed=0, start_s=0, spread=0), 10**5, 100)
    assert (result["lost_gpu_hours"], result["preemptions"], result["retries"], result["heads"]) == (0, 0, 0, 0)
    assert result["hours"] == pytest.approx(result["ideal_hours"], rel=0.02)


def test_more_puts_than_the_storage_takes_are_repeated():
    slow = simulate(World(100, rate=1000, puts_per_s=50, failed=0), 10**6, 100)
    assert slow["retries"] > 100


def test_the_driver_needs_little_time_and_memory_for_a_shard():
    measured = driver(100_000)
    assert measured["ms_per_shard"] <= 2
    assert measured["grown_mb"] < 20
    assert measured["planned_bytes_per_shard"] < 500
    assert measured["lists_per_1000_shards"] <= 1
