"""A node is drained while it samples, as when a spot machine is taken: the audit goes on, with the same samples."""

import subprocess
import sys
import time

import psutil
import pytest
import yaml

from side_ray.stages.extract import extract
from side_ray.stages.prepare import prepare
from side_ray.stages.train_dpm import train_dpm
from tests.audits import tiny_config, tiny_values
from tests.end_to_end.test_jobs import wait_for
from tests.local import stages_here
from tests.nodes import ray_nodes

DRAIN_S = 10
CHANGES = {
    "dpm__kind": "optimal",
    "extract__methods": ["random"],
    "extract__samples": 2000,
    "extract__shard_size": 25,
    "extract__batch_size": 25,
    "extract__sampler": "ddim",
    "extract__steps": 400,
    "cluster__actors": [2, 2],
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_drained_node_costs_nothing_but_the_shards_under_way(tmp_path):
    stages_here(tiny_config(tmp_path / "quiet", **CHANGES), [prepare, train_dpm, extract])
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump(tiny_values(str(tmp_path / "run"), **CHANGES)))
    command = [sys.executable, "-m", "side_ray.cli", "extract", str(config)]
    run = tmp_path / "run" / "samples"
    with ray_nodes(tmp_path, 2, cpus=2, RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=str(DRAIN_S)) as nodes:
        driver = subprocess.Popen(command, env=nodes.env, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(list(run.rglob("part-*.parquet"))) > 2, 300)
        node, raylet = nodes.processes[1], nodes.raylet(1)
        assert raylet is not None
        there = [each for each in raylet.children(recursive=True) if "Generator" in " ".join(each.cmdline())]
        assert there, "no actor is on the node"
        node.terminate()  # as Kubernetes ends a pod; Ray drains its node then
        began = time.monotonic()
        node.wait(3 * DRAIN_S)
        assert time.monotonic() - began > DRAIN_S / 2, "the node was not drained"
        assert not psutil.wait_procs(there, 10)[1]
        assert driver.poll() is None, "the audit ended before the node was gone"
        _, errors = driver.communicate(timeout=600)
        assert driver.returncode == 0, errors
    made = {path.name: path.read_bytes() for path in run.rglob("part-*.parquet")}
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "quiet" / "samples").rglob("part-*.parquet")}
    assert len(made) == 80
