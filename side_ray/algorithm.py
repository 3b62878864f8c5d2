"""The whole audit: the paper's Algorithm 1, from training images to a report."""

import time

from side_ray.config import Config
from side_ray.diffusion.denoisers import made_from_members
from side_ray.diffusion.draw import sampler_of
from side_ray.errors import UserError
from side_ray.execution.progress import Reporter
from side_ray.execution.repair import Stage, run_repairing
from side_ray.report.wording import duration
from side_ray.runs.artifacts import Artifacts, open_run
from side_ray.runs.given import describe_given
from side_ray.runs.plan import conditions
from side_ray.runs.preflight import preflight
from side_ray.stages.control import control
from side_ray.stages.extract import extract, extract_synthetic
from side_ray.stages.import_samples import take_given
from side_ray.stages.prepare import prepare
from side_ray.stages.report import report
from side_ray.stages.score import score
from side_ray.stages.train_dpm import train_dpm
from side_ray.stages.train_surrogate import train_surrogate

ABANDONED_S = 86_400.0
"""Age (seconds) of a temporary file or an unfinished upload that is cleared away. A large upload over a slow line takes hours."""
STAGES = ("prepare", "train_dpm", "synthetic", "train_surrogate", "extract", "score", "control", "report")


def run_until(last: str, config: Config, reporter: Reporter) -> Artifacts:
    """Run the stages up to and including `last`, making only what is not there yet.

    Args:
        last: one of `STAGES`.

    Raises:
        UserError: see the stages; what is finished stays finished.
    """
    artifacts = open_run(config)
    preflight(config, artifacts)
    artifacts.run.store.write("config.yaml", config.to_yaml().encode())
    if last == STAGES[-1]:
        reporter.say(describe_given(config) if config.given else describe(config))
    wanted = _stages_until(last, config)
    began = time.monotonic()
    for number in range(len(wanted)):
        run_repairing(wanted[: number + 1], config, artifacts, reporter)
    try:
        artifacts.run.store.sweep(ABANDONED_S)
    except UserError as error:  # a store may forbid it, and the run is done
        reporter.warn(f"what killed writers left stays: {error}")
    reporter.say(f"{last} done in {duration(time.monotonic() - began)}: {artifacts.run.store.uri}")
    return artifacts


def _stages_until(last: str, config: Config) -> list[Stage]:
    sampling: dict[str, Stage] = {
        "train_dpm": train_dpm,
        "synthetic": extract_synthetic,
        "train_surrogate": train_surrogate,
        "extract": extract,
    }
    stages = {
        "prepare": prepare,
        **({"extract": take_given} if config.given else sampling),
        "score": score,
        "control": control,
        "report": report,
    }
    if last not in stages:
        raise UserError(f"given: samples are given, so there is nothing for {last} to do; drop the section `given`")
    names = list(stages)
    return [stages[name] for name in names[: names.index(last) + 1]]


def describe(config: Config) -> str:
    """What an audit will do, in a few lines for the terminal."""
    many = conditions(config)
    total = len(many) * config.extract.samples
    made = made_from_members(config.dpm)
    if made:
        victim = f"use the {made.title} DPM of {config.data.members:,} images"
    elif config.dpm.kind == "import":
        victim = f"import {config.dpm.path}"
    else:
        victim = f"train a DPM for {config.dpm.steps:,} steps on {config.data.members:,} images"
    beside = "; repeat it with a DPM of other images" if config.control else ""
    return (
        f"audit: {victim}; sample {config.surrogate.synthetic:,} synthetic images; distil a "
        f"{config.surrogate.arch} student in {config.surrogate.steps:,} steps; sample {len(many)} conditions × "
        f"{config.extract.samples:,} = {total:,} images with {sampler_of(config.extract)}; "
        f"score by {config.score.similarity}{beside}; report"
    )
