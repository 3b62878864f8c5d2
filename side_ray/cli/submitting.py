"""Runs the verbs of jobs on a Ray cluster: `submit` and `stop`."""

import sys
from typing import TYPE_CHECKING

from side_ray.cli.actions import OPTIONS, STUDIES, guarded
from side_ray.config.file import load_config
from side_ray.errors import UserError

if TYPE_CHECKING:
    from side_ray.execution.submission.package import Submission

AUDITS = ("audit", "prepare", "train-dpm", "train-surrogate", "extract", "score", "report")
SUBMITTED = (*AUDITS, "sweep", "batch", *STUDIES)
"""Verbs that can be submitted."""
LIMITS = {"--fail-above": "audit", "--fail-worse": "batch"}
"""Options that make findings a failure, and the verb that has them."""
DETACHED = "side-ray: no longer following; the job goes on"


def submit(
    given: list[str],
    address: str | None,
    verb: str,
    limits: dict[str, str | None],
    attach: str | None,
    attach_running: bool,
    wait: bool,
) -> int:
    """Submit a verb on a config, or take a job that was submitted before, and follow it. Returns the exit code: the job's.

    Args:
        given: the config file (of a batch: its list of audits) and overrides; empty with `attach`.
        verb: one of `SUBMITTED`.
        limits: values of `LIMITS` by option, "" of one without a value, None where it is not given.
        attach: id of a job.
        attach_running: take the same job if it is running already.
        wait: whether to follow the job.
    """

    def action() -> None:
        if (attach is None) == (not given):
            raise UserError("submit: give CONFIG, or --attach JOB; see side-ray submit --help")
        if verb not in SUBMITTED:
            raise UserError(f"{verb!r} cannot be submitted; use one of {', '.join(SUBMITTED)}", "--verb")
        options = {option: value for option, value in limits.items() if value is not None}
        for option in options:
            if verb != LIMITS[option]:
                raise UserError(f"is for --verb {LIMITS[option]}; drop it", option)
        submission = (
            _submission(given, verb, [word for pair in options.items() for word in pair if word]) if given else None
        )
        from side_ray.execution.submission.client import Jobs

        jobs = Jobs(address)
        job = str(attach)
        if submission is not None:
            job, new = jobs.submit(submission, attach_running)
            _say(f"submitted {job} on {submission.run}" if new else f"{job} is running on {submission.run} already")
        _say(f"to follow it again: {jobs.follow_line(job)}")
        if wait:
            jobs.follow(job, _write, _say)

    return guarded(action, DETACHED)


def _submission(given: list[str], verb: str, options: list[str]) -> "Submission":
    from side_ray.execution.submission.package import CONFIG, Submission

    words = [flag for flag, name in (("-q", "quiet"), ("--log-json", "as_json")) if OPTIONS.get(name)]
    words += [*([] if OPTIONS.get("progress", True) else ["--no-progress"]), verb, *options]
    if verb == "batch":
        from side_ray.studies.batch.plan import read_batch, texts_of

        batch, planned = read_batch(given[0], given[1:])
        texts = texts_of(given[0], batch)
        return Submission([*words, next(iter(texts)), *given[1:]], texts, [each.config for each in planned])
    config = load_config(given[0], given[1:])
    return Submission([*words, CONFIG], {CONFIG: config.to_yaml()}, [config])


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
