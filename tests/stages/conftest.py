import pytest

from side_ray.stages.audit import run_until
from side_ray.stages.plan import Artifacts
from side_ray.stages.progress import Reporter
from tests.audits import tiny_config


@pytest.fixture(scope="session")
def tiny_audit(ray_session, tmp_path_factory) -> Artifacts:
    """An undisturbed small audit, for tests that only read it."""
    config = tiny_config(tmp_path_factory.mktemp("tiny") / "run")
    return run_until("report", config, Reporter())
