"""Fixtures for tests of several packages."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.s3 import Server, s3_server

# Ray reads these when it is first imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Property tests have no deadline, because machines may be shared, and use the same examples on every run.
settings.register_profile("side_ray", deadline=None, derandomize=True, database=None)
settings.load_profile("side_ray")

if TYPE_CHECKING:
    from click.testing import Result

    from side_ray.runs.artifacts import Artifacts


STARTERS = {
    "ray": ("ray_session", "tiny_audit"),
    "server": ("s3_process", "chromium"),
    "long": ("local_audit", "browser"),
}
"""By mark, the fixtures that start what it stands for."""
RAY_MODULES = ("end_to_end",)
"""Packages of tests that start Ray in processes of their own, but for those that are marked as long without it."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Imports make millions of objects that stay. Looking through them for garbage, then and in every test, takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, starters in STARTERS.items():
            if set(starters) & set(getattr(item, "fixturenames", ())):
                item.add_marker(mark)
        if item.path.parent.name in RAY_MODULES and not item.get_closest_marker("long"):
            item.add_marker("ray")


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One S3 server for the whole session."""
    with s3_server(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture
def s3(s3_process: Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The session's S3 server, with its environment variables set and a separate download cache for each test."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_process.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SIDE_RAY_CACHE", str(tmp_path_factory.mktemp("cache")))
    return s3_process


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole session, with more logical CPUs than the machine, so that several pools fit."""
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=8, object_store_memory=100 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def side_ray(monkeypatch: pytest.MonkeyPatch) -> Callable[..., "Result"]:
    """The command `side-ray` in this process: a new one takes seconds to import torch."""
    from typer.testing import CliRunner

    from side_ray.cli.app import app

    # A command ends the Ray of its process.
    monkeypatch.setattr("side_ray.execution.session.own_ray", nullcontext)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture(scope="session")
def tiny_audit(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> "Artifacts":
    """An uninterrupted small audit, for tests that only read it."""
    # Imported here, so that tests of lower floors do not load the stages.
    from side_ray.algorithm import run_until
    from side_ray.execution.progress import Reporter
    from tests.audits import tiny_config

    return run_until("report", tiny_config(tmp_path_factory.mktemp("tiny") / "run"), Reporter()).artifacts


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Figures of reports are empty: drawing them takes longer than all else of a small audit."""
    with pytest.MonkeyPatch.context() as patch:
        empty = '<svg xmlns="http://www.w3.org/2000/svg" id="{}"/>'
        patch.setattr("side_ray.report.svg.to_svg", lambda axes, name, *given: empty.format(name))
        yield


@pytest.fixture(scope="session")
def local_audit(tmp_path_factory: pytest.TempPathFactory) -> "Artifacts":
    """A small audit without Ray (`tests.local`), for tests that only read it."""
    from tests.local import audit_here

    return audit_here(tmp_path_factory.mktemp("local") / "run")
