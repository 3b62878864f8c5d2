"""Algorithm 1 of the paper (SIDE), from training images to a report: the steps of an audit in order.

Read `ALGORITHM` from top to bottom, then the module of `stages/` that implements a step. `runs/artifacts.py` defines the path
of each output.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.forecast import Forecast
from side_ray.execution.privacy import privacy
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import check_finished, mending
from side_ray.report.wording import duration
from side_ray.runs.plan import describe
from side_ray.runs.preflight import preflight
from side_ray.runs.status import moved, record, spend
from side_ray.stages.control import control
from side_ray.stages.extract import extract
from side_ray.stages.import_samples import import_samples
from side_ray.stages.label import label
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.stages.synthesize import synthesize
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import train_surrogate

ABANDONED_S = 86_400.0
"""Temporary files and unfinished uploads older than this (seconds) are removed. A large upload on a slow line takes hours."""


@dataclass(frozen=True)
class Step:
    """One step: its name in messages and `run_until`, the stage that implements it, and its place in the paper."""

    name: str
    stage: Callable[[Audit], None]
    paper: str


ALGORITHM = (
    Step("prepare", prepare, "The training set D, and similar images that the model never saw."),
    Step("train_dpm", train_dpm, "Line 1, input: the unconditional DPM p_θ(x): trained, imported, or in closed form."),
    Step("synthesize", synthesize, "Line 12: D_synthetic ~ p_θ(x) (Eq. 153)."),
    Step("label", label, "Lines 3 and 13: implicit labels y_I of the synthetic images (Eq. 154)."),
    Step("train_surrogate", train_surrogate, "From line 8 on: the time-dependent classifier, by TDKD (Eq. 13, 155)."),
    Step("extract", extract, "N_G images for each λ in the set S_λ, sampled from p_θ(x)·p_t(y|x)^λ (Eq. 151, 152)."),
    Step("score", score, "Output, D_extracted: which samples match which training images (Eq. 14, 15)."),
    Step("privacy", privacy, "Not in the paper: how much does the model say about which images it was trained on?"),
    Step("control", control, "Not in the paper: do the classifiers produce matches without the model?"),
    Step("report", report, "Not in the paper: counts, intervals, figures and evidence on one page."),
)
GIVEN = (
    Step("prepare", prepare, ALGORITHM[0].paper),
    Step("extract", import_samples, "Imports given samples in place of sampling."),
    *(step for step in ALGORITHM if step.name in ("score", "control", "report")),
)
"""The steps for given samples: no training and no sampling."""


def steps(config: Config, last: str = "report") -> list[Step]:
    """The steps of an audit up to and including `last`.

    Raises:
        UserError: samples are given, and `last` is a training or sampling step.
    """
    known = GIVEN if config.given else ALGORITHM
    names = [step.name for step in known]
    if last not in names:
        raise UserError(f"given: an audit of given samples has no step {last}; remove the section `given`")
    return list(known[: names.index(last) + 1])


def run_until(last: str, config: Config, reporter: Reporter) -> Audit:
    """Run the steps up to and including `last`. Outputs that exist are not made again.

    Args:
        last: the name of a step.

    Raises:
        UserError: see the stages. Finished outputs are kept.
    """
    audit = Audit.open(config, reporter)
    preflight(audit.artifacts)
    store = audit.run.store
    if told := moved(audit.artifacts):
        reporter.warn(told)
    record(audit.artifacts)
    if last == "report":
        reporter.say(describe(config))
        check_finished(audit)
        reporter.forecast = Forecast(audit.artifacts).left
    began = time.monotonic()
    run_steps(audit, [step.stage for step in steps(config, last)])
    try:
        store.sweep(ABANDONED_S)
    except UserError as error:  # the store may forbid deletion; the run itself is complete
        reporter.warn(f"temporary files of killed processes could not be removed: {error}")
    reporter.say(f"{last} done in {duration(time.monotonic() - began)}: {store.uri}")
    return audit


def run_steps(audit: Audit, stages: list[Callable[[Audit], None]]) -> None:
    """Run stages in order. If one finds damaged files, all run again from the first one: each makes what is missing.

    Raises:
        UserError: see the stages.
    """

    def run() -> None:
        for number, stage in enumerate(stages, 1):
            audit.reporter.step(number, len(stages), stage.__name__)
            began = time.monotonic()
            stage(audit)
            spend(audit.run.store, stage.__name__, time.monotonic() - began)

    mending(audit, run)
