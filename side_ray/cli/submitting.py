"""Runs the verbs of jobs on a Ray cluster: `submit` and `stop`."""

import sys

from side_ray.cli.actions import OPTIONS, STUDIES, guarded
from side_ray.config.file import load_config
from side_ray.errors import UserError

SUBMITTED = ("audit", "prepare", "train-dpm", "train-surrogate", "extract", "score", "report", "sweep", *STUDIES)
"""Verbs that can be submitted."""
DETACHED = "side-ray: no longer following; the job goes on"


def submit(
    given: list[str], address: str | None, verb: str, fail_above: int | None, attach: str | None, wait: bool
) -> int:
    """Submit a verb on a config, or take a job that was submitted before, and follow it. Returns the exit code: the job's.

    Args:
        given: the config file and overrides; empty with `attach`.
        verb: one of `SUBMITTED`.
        attach: id of a job.
        wait: whether to follow the job.
    """

    def action() -> None:
        if (attach is None) == (not given):
            raise UserError("submit: give CONFIG, or --attach JOB; see side-ray submit --help")
        if verb not in SUBMITTED:
            raise UserError(f"{verb!r} cannot be submitted; use one of {', '.join(SUBMITTED)}", "--verb")
        if fail_above is not None and verb != "audit":
            raise UserError("is for --verb audit; drop it", "--fail-above")
        config = load_config(given[0], given[1:]) if given else None
        from side_ray.execution.submission.client import Jobs

        jobs = Jobs(address)
        job = str(attach)
        if config is not None:
            options = [flag for flag, name in (("-q", "quiet"), ("--log-json", "as_json")) if OPTIONS.get(name)]
            options += [] if OPTIONS.get("progress", True) else ["--no-progress"]
            options += [verb, *([] if fail_above is None else ["--fail-above", str(fail_above)])]
            job = jobs.submit(config, options)
            _say(f"submitted {job} on {config.run.uri}")
        _say(f"to follow it again: {jobs.follow_line(job)}")
        if wait:
            jobs.follow(job, _write, _say)

    return guarded(action, DETACHED)


def stop(job: str, address: str | None) -> int:
    """Stop a job. Returns the exit code."""

    def action() -> None:
        from side_ray.execution.submission.client import Jobs

        if Jobs(address).stop(job):
            print(f"{job} has stopped; finished work is kept: submit it again to resume")
        else:
            print(f"{job} had ended already")

    return guarded(action)


def _say(text: str) -> None:
    print(f"side-ray: {text}", file=sys.stderr, flush=True)


def _write(text: str) -> None:
    print(text, end="", flush=True)
