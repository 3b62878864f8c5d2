"""Submits an audit by Ray's job API, follows its log, and stops it."""

import asyncio
import hashlib
import logging
import os
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from side_ray.errors import RunError, UserError, bounded, check_credentials, one_line
from side_ray.execution.submission.package import Submission, write_package

Result = TypeVar("Result")

REQUEST_S = 60.0
"""How long one answer may take. A connection that has died says nothing by itself; a running job prints a line every 30 s."""
PATIENCE_S = 600.0
"""How long a cluster may be out of reach before following ends. The job goes on all the same."""
RETRY_S = 2.0
ENDED_S = 90.0
"""How long a job may take to stop."""
STOP_S = 30
"""How long Ray waits for a job that it has asked to stop before it kills it. An audit needs up to 8 s."""
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class JobFailed(RunError):
    """A job ended otherwise than by success; `exit_code` is that of its command."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def job_address(given: str | None) -> str:
    """The URL of a cluster's job API: the given one, else that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    Raises:
        UserError: there is none, it is no HTTP address, or it holds credentials.
    """
    found = given or next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), None)
    if not found:
        raise UserError("give the address of the cluster's dashboard, for example http://127.0.0.1:8265", "--address")
    address = found if "://" in found else f"http://{found}"
    if "@" in address:
        raise UserError("holds credentials; give http://host:port, and a token as RAY_AUTH_TOKEN", "--address")
    check_credentials(address, "--address")
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"{found} is no HTTP address; give that of the dashboard, for example http://127.0.0.1:8265", "--address"
        )
    return address.rstrip("/")


@dataclass
class _Log:
    """A job's log. The server begins it anew with each connection, so the characters that are written are counted."""

    write: Callable[[str], object]
    written: int = 0


class Jobs:
    """The jobs of one cluster.

    Args:
        address: see `job_address`.
        connect: makes a `JobSubmissionClient` of a URL; Ray's own, with a limit of time for each request, if absent.

    Raises:
        UserError: the address is wrong, or the cluster refuses the token.
        RunError: the cluster cannot be reached.
    """

    def __init__(self, address: str | None, connect: Callable[[str], Any] | None = None) -> None:
        self.address = job_address(address)
        self._client = self._asked(lambda: (connect or _connect)(self.address))

    def follow_line(self, job: str) -> str:
        """The command that follows a job."""
        return f"side-ray submit --attach {shlex.quote(job)} --address {shlex.quote(self.address)}"

    def submit(self, submission: Submission, join: bool = False) -> tuple[str, bool]:
        """Submit a job, which runs on the cluster's head and reserves nothing there. Returns its id, and whether it is new.

        Args:
            join: if the same job is running already, from the same files by the same command, take that one.

        Raises:
            UserError: see `write_package`; or a job is running on the same run directory.
        """
        entrypoint = shlex.join(["python", "-m", "side_ray.cli", *submission.command])
        with tempfile.TemporaryDirectory() as directory:
            package = Path(directory) / "side-ray.zip"
            write_package(submission, package)
            digest = hashlib.sha256(package.read_bytes() + entrypoint.encode()).hexdigest()
            for each in self._asked(self._client.list_jobs):
                found = each.metadata or {}
                if found.get("run") == submission.run and not each.status.is_terminal():
                    running = str(each.submission_id)
                    if join and found.get("digest") == digest:
                        return running, False
                    raise UserError(f"{running} is already running on {submission.run}; {self.follow_line(running)}")
            environment = {"working_dir": str(package), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}
            job: str = self._asked(
                lambda: self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=f"side-ray-{secrets.token_hex(4)}",
                    runtime_env=environment,
                    metadata={"run": submission.run, "digest": digest},
                )
            )
        return job, True

    def follow(self, job: str, write: Callable[[str], object], warn: Callable[[str], object]) -> None:
        """Write the log of a job from its beginning until the job ends, through lost connections.

        Args:
            write: takes each new part of the log.
            warn: takes a line when the connection is lost.

        Raises:
            UserError: the cluster knows no such job.
            JobFailed: the job did not succeed.
            RunError: the cluster was out of reach for `PATIENCE_S`.
        """
        log, lost = _Log(write), 0.0
        while True:
            try:
                info = self._client.get_job_info(job)
                if lost:
                    warn("connected again")
                lost = 0.0
                # The status comes first, so that the log of a job that has ended is read to its end.
                asyncio.run(_tail(self._client, job, log))
                if info.status.is_terminal():
                    return self._check(job, info)
            except BrokenPipeError:  # nobody reads the log any more
                raise
            except Exception as error:  # the HTTP libraries of Ray's client raise errors of many types
                if (known := _known(error, job)) is not None:
                    raise known from error
                if not lost:
                    lost = time.monotonic()
                    warn(f"lost the connection to {self.address} ({one_line(error)}); the job goes on, trying again")
                if time.monotonic() - lost > PATIENCE_S:
                    raise RunError(
                        f"{self.address} is out of reach; the job may still be running: {self.follow_line(job)}"
                    ) from error
            time.sleep(RETRY_S)

    def stop(self, job: str) -> bool:
        """Stop a job and wait until it has ended. Returns False if it had ended before.

        Raises:
            UserError: the cluster knows no such job.
            RunError: it has not ended within `ENDED_S`.
        """
        if not self._asked(lambda: self._client.stop_job(job), job):
            return False
        deadline = time.monotonic() + ENDED_S
        while not self._asked(lambda: self._client.get_job_status(job), job).is_terminal():
            if time.monotonic() > deadline:
                raise RunError(f"{job} was asked to stop, but is still running; try again")
            time.sleep(RETRY_S / 4)
        return True

    @staticmethod
    def _check(job: str, info: Any) -> None:
        """Raise JobFailed unless a job that has ended succeeded."""
        if info.status.value == "STOPPED":
            raise JobFailed(f"{job} was stopped; finished work is kept: submit it again to resume", RunError.exit_code)
        if info.status.value != "SUCCEEDED":
            code = info.driver_exit_code
            if code is None or code <= 0:  # it did not start, or a signal killed it
                message = bounded(info.message or "no reason is known", 240)
                raise JobFailed(f"{job} failed ({message}); submit it again to resume", RunError.exit_code)
            raise JobFailed(f"{job} ended with exit code {code}; its log is above", code)

    def _asked(self, request: Callable[[], Result], job: str = "") -> Result:
        try:
            return request()
        except UserError:
            raise
        except Exception as error:  # see `follow`
            if (known := _known(error, job)) is not None:
                raise known from error
            raise RunError(
                f"cannot use the cluster at {self.address} ({one_line(error)}); check the address and that it runs"
            ) from error


def _known(error: Exception, job: str) -> UserError | None:
    """What the user can correct, if that is what an error of Ray's client means."""
    from ray.exceptions import AuthenticationError

    if isinstance(error, AuthenticationError):
        return UserError("the cluster refuses the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN", "--address")
    if job and "status code 404" in str(error):
        return UserError(f"the cluster knows no job {job}; check its id and the address")
    return error if isinstance(error, UserError) else None


def _connect(address: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it at import
    # Ray lets its variables override the address that it is given.
    os.environ[ADDRESSES[0]] = address
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, **{"timeout": REQUEST_S, **options})

    return Client(address)


async def _tail(client: Any, job: str, log: _Log) -> None:
    """Write what a job's log has beyond what is written, until the server ends it or says nothing for long."""
    parts, read = client.tail_job_logs(job), 0
    while True:
        try:
            part = await asyncio.wait_for(anext(parts, None), REQUEST_S)
        except TimeoutError:
            return
        if part is None:
            return
        read += len(part)
        if read > log.written:
            log.write(part[log.written - read :])
            log.written = read
