"""The state of a running audit: its config, its run directory, the paths of its artifacts, and its reporter."""

from dataclasses import dataclass

from side_ray.config import Config
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Run


@dataclass(frozen=True)
class Audit:
    """The argument of every stage. It stays in the driver: actors receive paths and sections of the config."""

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
        """The audit of a config; nothing is written yet. Raises UserError if run.uri is not a valid store."""
        return cls(Artifacts.open(config), reporter)

    def of(self, artifacts: Artifacts) -> "Audit":
        """An audit of other artifacts with the same reporter."""
        return Audit(artifacts, self.reporter)
