import shutil
from pathlib import Path

import pytest

from side_ray.runs.artifacts import Artifacts
from tests.local import audit_here


@pytest.fixture(scope="package")
def artifacts(tmp_path_factory) -> Artifacts:
    """A small audit without Ray; only read it."""
    return audit_here(tmp_path_factory.mktemp("results") / "run")


@pytest.fixture(scope="package")
def uri(artifacts) -> str:
    return artifacts.run.store.uri


@pytest.fixture
def copied(uri, tmp_path) -> Path:
    shutil.copytree(uri, tmp_path / "run")
    return tmp_path / "run"
