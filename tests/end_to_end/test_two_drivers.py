"""Two drivers run the same audit in one run directory: both succeed, with the result of a single one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import conditions
from side_ray.runs.run import Run
from side_ray.storage import open_store
from tests.audits import tiny_config, tiny_values
from tests.bruteforce import check


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_drivers_at_once_give_what_one_gives(tiny_audit, tmp_path):
    run = tmp_path / "run"
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump(tiny_values(str(run))))
    command = [sys.executable, "-m", "side_ray.cli", "audit", str(config)]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [driver.communicate(timeout=800) for driver in drivers]
    for driver, (printed, errors) in zip(drivers, ends, strict=True):
        assert driver.returncode == 0, errors
        assert "Calibrated cut" in printed

    artifacts = Artifacts(tiny_config(run), Run(open_store(str(run))))
    for each in conditions(artifacts.config):
        ours, theirs = (a.samples(each).read_first(4) for a in (artifacts, tiny_audit))
        assert ours.equals(theirs)
        files = sorted(os.listdir(run / artifacts.samples(each).directory))
        assert files == [f"part-{i:06d}.parquet" for i in range(4)]
    metrics = [a.report.read_json("metrics.json")["conditions"] for a in (artifacts, tiny_audit)]
    assert metrics[0] == metrics[1]
    assert check(run) == []
    assert len(list(Path(run, "dpm").iterdir())) == 1
