"""What the cluster can never have is refused before any work, and Ray's start is tried twice."""

from types import SimpleNamespace

import pytest
import ray

from side_ray.config import ClusterSection
from side_ray.errors import RunError, UserError
from side_ray.execution import session
from side_ray.execution.session import check_room, fitting


@pytest.fixture
def machines(monkeypatch):
    """Two machines, one of them with a GPU, which this process has started itself."""
    nodes = [{"Alive": True, "Resources": each} for each in ({"CPU": 2.0}, {"CPU": 4.0, "GPU": 1.0})]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    monkeypatch.setattr(session, "_own_processes", lambda: [1])


@pytest.mark.parametrize(
    ("cpus", "gpus", "count", "words"),
    [
        (4, 1, 1, None),
        (2, 0, 3, None),
        (1, 0.25, 4, None),
        (5, 0, 1, r"^cluster\.train_cpus: a process asks for 5 CPUs, but no machine has more than 4; lower it$"),
        (1, 2, 1, r"^cluster\.gpus: a process asks for 2 GPUs, but no machine has more than 1; lower it$"),
        (2, 0, 4, r"^cluster\.train_workers: 4 processes with 2 CPUs and 0 GPUs each are more than the machines have"),
        (1, 0.5, 3, r"^cluster\.train_workers: 3 processes with 1 CPUs and 0\.5 GPUs each"),
    ],
)
def test_more_than_the_machines_have_is_refused(machines, monkeypatch, cpus, gpus, count, words):
    cluster = ClusterSection(train_cpus=cpus)
    if words is None:
        assert check_room(cluster, "train_cpus", gpus, count, "train_workers") == ""
        return
    with pytest.raises(UserError, match=words):
        check_room(cluster, "train_cpus", gpus, count, "train_workers")
    # A cluster may be given more machines.
    monkeypatch.setattr(session, "_own_processes", list)
    waiting = check_room(cluster, "train_cpus", gpus, count, "train_workers")
    assert waiting.endswith("now; waiting until the cluster grows")


def test_shares_of_a_gpu_are_not_put_together():
    assert [fitting(0.4, 1), fitting(0.5, 3), fitting(1, 2.5), fitting(2, 3), fitting(1, 0)] == [2, 6, 2, 1, 0]


@pytest.mark.parametrize("failures", [1, 2])
def test_ray_is_started_twice_and_then_given_up_in_one_line(monkeypatch, tmp_path, failures):
    begun = []

    def init(**options):
        begun.append(options["_temp_dir"])
        if len(begun) <= failures:
            raise Exception("The current node timed out during startup.\nThis could happen because …")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "_make_token_private", lambda: None)
    node = SimpleNamespace(get_session_dir_path=lambda: tmp_path, live_processes=list)
    monkeypatch.setattr(ray._private.worker, "_global_node", node)
    tmp_path.chmod(0o755)
    if failures == 1:
        session._start()
        assert tmp_path.stat().st_mode & 0o777 == 0o700
    else:
        with pytest.raises(
            RunError, match=r"in two attempts \(Exception: The current node timed out during startup"
        ) as e:
            session._start()
        assert "\n" not in str(e.value)
    assert len(begun) == 2
    session._temporary.close()


def test_the_paths_of_sockets_fit_where_the_temporary_directory_is_long(monkeypatch, tmp_path):
    long = tmp_path / ("slurm_jobdir_" + "x" * 70)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with session.scratch(session.LONGEST_TEMPORARY) as directory:
        assert len(f"{directory}/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store") <= 107
        assert directory.parent.parent.stat().st_mode & 0o777 == 0o700
    assert not directory.exists()
    assert not list(long.iterdir())
