"""One audit under way: its config, its run directory, where each artifact lies, and who is told."""

from dataclasses import dataclass

from side_ray.config import Config
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Run


@dataclass(frozen=True)
class Audit:
    """What every stage takes. It stays in the driver: actors are given paths and sections of the config."""

    artifacts: Artifacts
    reporter: Reporter

    @property
    def config(self) -> Config:
        return self.artifacts.config

    @property
    def run(self) -> Run:
        return self.artifacts.run

    @classmethod
    def open(cls, config: Config, reporter: Reporter) -> "Audit":
        """The audit of a config, before anything of it is made. Raises UserError for a run.uri that cannot be a store."""
        return cls(Artifacts.open(config), reporter)

    def of(self, artifacts: Artifacts) -> "Audit":
        """Another audit that reports to the same person."""
        return Audit(artifacts, self.reporter)
