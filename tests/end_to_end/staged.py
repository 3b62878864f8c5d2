"""The command line, which here prints on stdout when a step begins and when Ray has been started for it."""

from dataclasses import replace

from side_ray import algorithm
from side_ray.algorithm import Step
from side_ray.cli import app
from side_ray.execution import session
from side_ray.execution.audit import Audit

quiet = session._quiet


def told(step: Step) -> Step:
    def stage(audit: Audit) -> None:
        print(f"{step.name} begins", flush=True)
        step.stage(audit)

    return replace(step, stage=stage)


def ready() -> None:
    quiet()
    print("works", flush=True)


algorithm.ALGORITHM = tuple(map(told, algorithm.ALGORITHM))
session._quiet = ready
app()
