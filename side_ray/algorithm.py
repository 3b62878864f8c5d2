"""Algorithm 1 of the paper (SIDE), from training images to a report: the steps in order, each a stage of an audit.

Read it from top to bottom, then the module of `stages/` that a step names. `runs/artifacts.py` says where each output lies.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from side_ray.config import Config
from side_ray.errors import UserError
from side_ray.execution.audit import Audit
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import repairing
from side_ray.report.wording import duration
from side_ray.runs.plan import describe
from side_ray.runs.preflight import preflight
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
"""Age (seconds) of a temporary file or an unfinished upload that is removed. A large upload over a slow line takes hours."""


@dataclass(frozen=True)
class Step:
    """One step: its name on the command line, the stage that does it, and what it is in the paper."""

    name: str
    stage: Callable[[Audit], None]
    paper: str


ALGORITHM = (
    Step("prepare", prepare, "The training set D, and images of the same kind that the model never saw."),
    Step(
        "train_dpm", train_dpm, "Line 1, input: the unconditional DPM p_θ(x), here trained, imported or in closed form."
    ),
    Step("synthesize", synthesize, "Line 12: D_synthetic ~ p_θ(x) (Eq. 153)."),
    Step("label", label, "Lines 3 and 13: implicit labels y_I of the synthetic images (Eq. 154)."),
    Step(
        "train_surrogate", train_surrogate, "Lines 8 to 11 and on: the time-dependent classifier by TDKD (Eq. 13, 155)."
    ),
    Step("extract", extract, "N_G images for each λ of the set S_λ, drawn from p_θ(x)·p_t(y|x)^λ (Eq. 151, 152)."),
    Step("score", score, "Output, D_extracted: which samples are copies of which training images (Eq. 14, 15)."),
    Step("control", control, "Beyond the paper: do the classifiers alone give copies?"),
    Step("report", report, "Beyond the paper: counts, intervals, figures and evidence on one page."),
)
GIVEN = (
    Step("prepare", prepare, ALGORITHM[0].paper),
    Step("extract", import_samples, "Samples that are given stand for those of line `extract`."),
    *(step for step in ALGORITHM if step.name in ("score", "control", "report")),
)
"""The same for samples that are given: nothing is trained and nothing is sampled."""


def steps(config: Config, last: str = "report") -> list[Step]:
    """The steps of an audit up to and including `last`.

    Raises:
        UserError: samples are given, and `last` is a step that only sampling has.
    """
    known = GIVEN if config.given else ALGORITHM
    names = [step.name for step in known]
    if last not in names:
        raise UserError(f"given: samples are given, so there is nothing for {last} to do; drop the section `given`")
    return list(known[: names.index(last) + 1])


def run_until(last: str, config: Config, reporter: Reporter) -> Audit:
    """Run the steps up to and including `last`, making only what is not there yet.

    Args:
        last: the name of a step.

    Raises:
        UserError: see the stages; what is finished is kept.
    """
    audit = Audit.open(config, reporter)
    preflight(audit.artifacts)
    store = audit.run.store
    store.write("config.yaml", config.to_yaml().encode())
    if last == "report":
        reporter.say(describe(config))
    began = time.monotonic()
    run_steps(audit, [step.stage for step in steps(config, last)])
    try:
        store.sweep(ABANDONED_S)
    except UserError as error:  # a store may forbid it, and the run is done
        reporter.warn(f"temporary files of killed writers are not removed: {error}")
    reporter.say(f"{last} done in {duration(time.monotonic() - began)}: {store.uri}")
    return audit


def run_steps(audit: Audit, stages: list[Callable[[Audit], None]]) -> None:
    """Run stages in order; where one meets a damaged shard, those before it make that shard again first.

    Raises:
        UserError: see the stages.
    """
    for number, stage in enumerate(stages):

        def remake(damage: Exception, number: int = number) -> None:
            audit.reporter.warn(f"{damage}: making it again")
            for earlier in stages[:number]:
                earlier(audit)

        repairing(audit.run.store, lambda stage=stage: stage(audit), remake)  # type: ignore[misc]
