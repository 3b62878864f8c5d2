"""What goes beyond one audit, from a config to lines for the terminal."""

from side_ray.algorithm import run_until
from side_ray.config import Config
from side_ray.execution.progress import Reporter
from side_ray.report.theory import verdicts
from side_ray.studies.theory import theory
from side_ray.studies.twins import twins


def run_theory(config: Config, reporter: Reporter) -> list[str]:
    """Make the DPM if it is not there, and compute the theory on it."""
    artifacts = run_until("train_dpm", config, reporter)
    found = theory(config, artifacts, reporter)
    return [*verdicts(found), f"theory: {artifacts.run.store.uri}/{artifacts.theory.key}/theory.md"]


def run_twins(config: Config, reporter: Reporter) -> list[str]:
    """Audit the class-conditional twins of the DPM and set them side by side."""
    artifact, text = twins(config, reporter)
    return [text, f"twins: {artifact.store.uri}/{artifact.key}/twins.md"]
