"""An audit with a base model on a real Ray."""

import pytest
from rich.console import Console

from side_ray.algorithm import run_until
from side_ray.execution.progress import Reporter
from tests.stages.test_base import closed_forms, config_of, reveals_more

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


def test_its_samples_are_made_by_workers_that_hold_both_models(ray_session, tmp_path):
    path, base = closed_forms(tmp_path)
    config = config_of(tmp_path / "run", {"path": path, "base": base, "check": False}, base_lambdas=[2])
    reveals_more(run_until("report", config, Reporter(Console(quiet=True))).artifacts)
