"""Jobs on a cluster, without one: what is packed, what is refused, and how a log is followed through lost connections."""

import asyncio
import io
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from aiohttp import web

from side_ray.cli.app import app
from side_ray.config.file import load_config
from side_ray.errors import RunError, UserError
from side_ray.execution.submission import client
from side_ray.execution.submission.client import JobFailed, Jobs, job_address
from side_ray.execution.submission.package import CONFIG, MOST_BYTES, Submission, write_package
from side_ray.studies.batch.plan import read_batch
from tests.audits import ROOT, TINY
from tests.config.test_credentials import URLS
from tests.s3 import free_ports

S3 = ["run.uri=s3://bucket/prefix"]


def work(*overrides: str, verb: str = "audit") -> Submission:
    config = load_config(TINY, [*S3, *overrides])
    return Submission([verb, CONFIG], {CONFIG: config.to_yaml()}, [config])


def packed(tmp_path, *overrides: str, name: str = "package.zip") -> zipfile.ZipFile:
    write_package(work(*overrides), tmp_path / name)
    return zipfile.ZipFile(tmp_path / name)


def test_the_package_holds_the_code_and_the_config_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for other in ("runs/a", "data", ".git", ".venv/lib"):
        (tmp_path / other).mkdir(parents=True)
        (tmp_path / other / "file.py").write_text("x")
    names = packed(tmp_path).namelist()
    code = {str(each.relative_to(ROOT)) for each in (ROOT / "side_ray").rglob("*") if each.is_file()}
    assert set(names) == {each for each in code if "__pycache__" not in each} | {CONFIG}
    assert len(names) == len(set(names))
    assert (tmp_path / "package.zip").stat().st_size < MOST_BYTES


def test_the_packed_config_is_the_resolved_one(tmp_path):
    with packed(tmp_path, "extract.samples=2000") as archive:
        (tmp_path / "again.yaml").write_bytes(archive.read(CONFIG))
    again = load_config(tmp_path / "again.yaml")
    assert again == load_config(TINY, [*S3, "extract.samples=2000"])
    assert again.extract.samples == 2000


def test_equal_packages_have_equal_bytes(tmp_path):
    packed(tmp_path, name="one.zip"), packed(tmp_path, name="two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_small_files_of_the_working_directory_are_sent_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text("def load(directory): ...")
    (tmp_path / "weights.bin").write_bytes(b"weights")
    names = packed(tmp_path, "dpm.path=models/mine.py:load", "dpm.files=[weights.bin]", "dpm.kind=import").namelist()
    assert {"models/mine.py", "weights.bin"} <= set(names)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["run.uri=runs/x"], "run.uri: 'runs/x' is relative"),
        (["data.source=folder", "data.path=images"], "data.path: 'images' is no file"),
        (["dpm.kind=import", "dpm.path=../pipeline"], "dpm.path: '../pipeline' is no file"),
        (["dpm.kind=import", "dpm.path=gone.py:load"], "dpm.path: 'gone.py' is no file"),
        (["privacy.canaries=large.csv"], "privacy.canaries: 'large.csv' has 2,000,001 bytes"),
    ],
)
def test_what_the_cluster_would_not_have_is_refused(overrides, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "large.csv").write_bytes(bytes(MOST_BYTES + 1))
    with pytest.raises(UserError, match="s3://bucket/prefix, or an absolute path") as caught:
        write_package(work(*overrides), tmp_path / "package.zip")
    assert str(caught.value).startswith(says)


# Addresses


@pytest.mark.parametrize(
    ("given", "address"),
    [("127.0.0.1:8265", "http://127.0.0.1:8265"), ("https://ray.example.com/", "https://ray.example.com")],
)
def test_an_address_is_a_url(given, address):
    assert job_address(given) == address


def test_the_address_comes_from_the_environment_too(monkeypatch):
    for name in client.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--address: give the address"):
        job_address(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://one:1")
    assert job_address(None) == "http://one:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:2")
    assert job_address(None) == "http://two:2"


@pytest.mark.parametrize("url", [*URLS, "user:hunter2@host:8265", "http://hunter2:x@host/", "ray://host:10001"])
def test_an_address_with_credentials_or_of_another_kind_is_refused(url):
    with pytest.raises(UserError) as caught:
        job_address(url)
    assert "hunter2" not in str(caught.value)


def test_the_given_address_comes_before_the_environments(monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        RunError, match=rf"cannot use the cluster at http://127\.0\.0\.1:{port} .*address: http://127.0.0.1:{port}"
    ):
        Jobs(f"127.0.0.1:{port}")


# Following


class Cluster:
    """Stands for `JobSubmissionClient`: one job, whose log arrives in parts, over connections that end as told.

    Args:
        connections: for each connection, how many parts it delivers and the error that ends it (None = the server ends it).
    """

    parts = ("one\n", "two\nthree\n", "four\n")

    def __init__(
        self, connections: list[tuple[int, Exception | None]], status: str = "SUCCEEDED", code: int = 0
    ) -> None:
        self.connections, self.status, self.code = connections, status, code
        self.submitted: dict[str, Any] = {}
        self.jobs: list[Any] = []

    def _status(self) -> Any:
        ended = not self.connections
        return SimpleNamespace(value=self.status if ended else "RUNNING", is_terminal=lambda: ended)

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status=self._status(), driver_exit_code=self.code, message="the node was lost")

    def get_job_status(self, job: str) -> Any:
        self.connections = self.connections[1:]
        return self._status()

    def stop_job(self, job: str) -> bool:
        return bool(self.connections)

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **arguments: Any) -> str:
        self.package = Path(arguments["runtime_env"]["working_dir"]).read_bytes()
        self.submitted = arguments
        return str(arguments["submission_id"])

    async def tail_job_logs(self, job: str) -> Any:
        count, error = self.connections.pop(0) if self.connections else (len(self.parts), None)
        for part in self.parts[:count]:
            yield part
        if error:
            raise error


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(client, "RETRY_S", 0)


def jobs(cluster: Cluster) -> Jobs:
    return Jobs("host:8265", lambda address: cluster)


LOST = ConnectionError("reset by peer")


@pytest.mark.parametrize(
    "connections",
    [[], [(3, None)], [(0, LOST), (2, LOST), (1, LOST), (3, LOST)], [(2, None), (0, LOST)]],
)
def test_a_log_is_written_once_through_lost_connections(connections):
    written, warned = list[str](), list[str]()
    losses = [error for _, error in connections if error]
    jobs(Cluster(connections)).follow("job", written.append, warned.append)
    assert "".join(written) == "".join(Cluster.parts)
    assert sum("lost the connection to http://host:8265" in each for each in warned) == len(losses)
    assert warned.count("connected again") == len(losses)


@pytest.mark.parametrize(
    ("status", "code", "exit_code", "says"),
    [
        ("FAILED", 2, 2, "job ended with exit code 2"),
        ("FAILED", 3, 3, "job ended with exit code 3"),
        ("FAILED", None, 1, "job failed (the node was lost)"),
        ("FAILED", -9, 1, "job failed (the node was lost)"),
        ("STOPPED", 143, 1, "job was stopped; finished work is kept"),
    ],
)
def test_the_exit_code_is_the_jobs(status, code, exit_code, says):
    with pytest.raises(JobFailed) as caught:
        jobs(Cluster([], status, code)).follow("job", str, str)
    assert caught.value.exit_code == exit_code
    assert str(caught.value).startswith(says)


def test_a_cluster_that_stays_out_of_reach_is_given_up_with_the_line_that_follows_again(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_S", -1)
    with pytest.raises(RunError, match="side-ray submit --attach job --address http://host:8265"):
        jobs(Cluster([(1, LOST)] * 3)).follow("job", str, str)


def test_a_job_that_is_not_there_is_the_users_mistake():
    cluster = Cluster([(0, RuntimeError("Request failed with status code 404: Job x does not exist."))])
    with pytest.raises(UserError, match="knows no job x") as caught:
        jobs(cluster).follow("x", str, str)
    assert caught.value.exit_code == 2


def test_a_job_is_submitted_with_what_it_needs_and_nothing_of_this_machine(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    cluster = Cluster([])
    job, new = jobs(cluster).submit(work())
    assert (job, new) == (cluster.submitted["submission_id"], True)
    assert job.startswith("side-ray-")
    assert cluster.submitted["entrypoint"] == "python -m side_ray.cli audit audit.yaml"
    assert cluster.submitted["metadata"].pop("digest")
    assert cluster.submitted["metadata"] == {"run": "s3://bucket/prefix"}
    assert "hunter2" not in str(cluster.submitted)
    assert not [name for name in cluster.submitted if name.startswith("entrypoint_num")]


def running(submission: Submission) -> Cluster:
    """A cluster where a job is running."""
    cluster = Cluster([(1, None)])
    jobs(cluster).submit(submission)
    status, metadata = cluster._status(), cluster.submitted["metadata"]
    cluster.jobs = [SimpleNamespace(submission_id="other", metadata=metadata, status=status)]
    return cluster


def test_two_jobs_on_one_run_are_refused():
    cluster = running(work())
    with pytest.raises(
        UserError, match="other is already running on s3://bucket/prefix; side-ray submit --attach other"
    ):
        jobs(cluster).submit(work())
    cluster.connections = []
    cluster.jobs[0].status = cluster._status()
    assert jobs(cluster).submit(work())[1]


def test_the_same_job_is_joined_and_another_one_is_not():
    assert jobs(running(work())).submit(work(), join=True) == ("other", False)
    for other in (work(verb="extract"), work("extract.samples=2000")):
        with pytest.raises(UserError, match="other is already running"):
            jobs(running(other)).submit(work(), join=True)
    cluster = running(work())
    del cluster.jobs[0].metadata["digest"]  # submitted by an earlier version
    with pytest.raises(UserError, match="other is already running"):
        jobs(cluster).submit(work(), join=True)


def test_a_batch_is_sent_with_its_list_its_base_and_the_files_of_every_audit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "base.yaml").write_text(TINY.read_text())
    (tmp_path / "mine.py").write_text("def load(directory): ...")
    values = {
        "base": "base.yaml",
        "models": {"own": [], "mine": ["dpm.kind=import", "dpm.path=mine.py:load"]},
        "hours": 2,
    }
    (tmp_path / "lists" / "all.yaml").write_text(yaml.safe_dump(values))
    cluster, given = Cluster([]), ["lists/all.yaml", *S3]
    monkeypatch.setattr(client, "_connect", lambda address: cluster)
    flags = ["--verb", "batch", "--fail-worse", "--no-wait", "--address", "host:1"]
    assert app(["submit", *given, *flags], standalone_mode=False) == 0
    assert cluster.submitted["entrypoint"].endswith(f" batch --fail-worse audits.yaml {S3[0]}")
    with zipfile.ZipFile(io.BytesIO(cluster.package)) as archive:
        assert {"audits.yaml", "base.yaml", "mine.py"} <= set(archive.namelist())
        archive.extractall(tmp_path / "there", ("audits.yaml", "base.yaml"))
    assert read_batch(str(tmp_path / "there" / "audits.yaml"), S3)[1] == read_batch(*given[:1], S3)[1]
    assert read_batch(str(tmp_path / "there" / "audits.yaml"), S3)[0].hours == 2


def test_stopping_waits_until_the_job_has_ended():
    cluster = Cluster([(0, None)] * 3)
    assert jobs(cluster).stop("job")
    assert not cluster.connections
    assert not jobs(cluster).stop("job")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit"], "give CONFIG, or --attach JOB"),
        (["submit", str(TINY), "--attach", "x"], "give CONFIG, or --attach JOB"),
        (["submit", str(TINY), "--verb", "purge"], "--verb: 'purge' cannot be submitted; use one of audit,"),
        (["submit", str(TINY), "--verb", "sweep", "--fail-above", "1"], "--fail-above: is for --verb audit"),
        (["submit", str(TINY), "--fail-worse"], "--fail-worse: is for --verb batch"),
        (["submit", "gone.yaml", "--verb", "batch"], "gone.yaml: no such config file"),
        (["submit", "gone.yaml"], "gone.yaml: no such config file"),
        (["submit", str(TINY), "extract.samplse=3"], "extract.samplse"),
        (["submit", str(TINY), "--address", "http://hunter2@host"], "--address: holds credentials"),
        (["stop", "job", "--address", "ftp://host"], "--address: ftp://host is no HTTP address"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, says, capsys):
    assert app(arguments, standalone_mode=False) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert printed.count("\n") == 1
    assert "hunter2" not in printed


class Dashboard:
    """A server with the part of Ray's job API that follows a job. It drops the first connections in the middle of the log."""

    parts = ("one\n", "two\n", "three\n")

    def __init__(self) -> None:
        self.tails = self.asked = 0
        self.port = 0
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._serve, daemon=True).start()
        assert self.ready.wait(10)

    def _serve(self) -> None:
        async def begin() -> None:
            server = web.Application()
            server.add_routes([
                web.get("/api/version", self.version),
                web.get("/api/jobs/job", self.job),
                web.get("/api/jobs/job/logs/tail", self.tail),
            ])  # fmt: skip
            runner = web.AppRunner(server)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            self.ready.set()

        self.loop.run_until_complete(begin())
        self.loop.run_forever()

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})

    async def job(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.asked in (2, 3):
            assert request.transport is not None
            request.transport.abort()
        status = "SUCCEEDED" if self.tails >= 3 else "RUNNING"
        job = {"type": "SUBMISSION", "submission_id": "job", "status": status, "entrypoint": "x", "driver_exit_code": 0}
        return web.json_response(job)

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        self.tails += 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for part in self.parts[: self.tails]:
            await socket.send_str(part)
        if self.tails < 3:
            await asyncio.sleep(0.1)
            assert request.transport is not None
            request.transport.abort()
        return socket


def test_rays_own_client_follows_a_log_over_connections_that_break(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    dashboard, written, warned = Dashboard(), list[str](), list[str]()
    Jobs(f"127.0.0.1:{dashboard.port}").follow("job", written.append, warned.append)
    dashboard.loop.call_soon_threadsafe(dashboard.loop.stop)
    assert "".join(written) == "one\ntwo\nthree\n"
    assert dashboard.tails >= 3
    assert any("lost the connection" in each for each in warned)
    assert warned[-1] == "connected again"
