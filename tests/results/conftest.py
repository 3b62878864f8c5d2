import shutil
from pathlib import Path

import pytest

from side_ray.runs.artifacts import Artifacts


@pytest.fixture
def artifacts(local_audit) -> Artifacts:
    return local_audit


@pytest.fixture
def uri(local_audit) -> str:
    return local_audit.run.store.uri


@pytest.fixture
def copied(uri, tmp_path) -> Path:
    shutil.copytree(uri, tmp_path / "run")
    return tmp_path / "run"
