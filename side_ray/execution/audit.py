"""The state of a running audit: its config, its run directory, the paths of its artifacts, and its reporter."""

from dataclasses import dataclass

from side_ray.config import Config
from side_ray.errors import Damaged
from side_ray.execution.progress import Reporter
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.run import Artifact, Run


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

    def has(self, artifact: Artifact, content: bool = False) -> bool:
        """Whether an artifact is complete. Says so in one line if it is damaged, and deletes what is, so that it is made again.

        Args:
            content: also compare the content of every file that it lists with its digest.
        """
        try:
            if adopted := artifact.adopt():
                self.reporter.say(adopted)
            artifact.check(content)
        except FileNotFoundError:
            return False
        except Damaged as damage:
            self.reporter.warn(f"{damage}: making it again")
            for key in damage.doomed:
                artifact.store.delete(key)
            return False
        return True

    def of(self, artifacts: Artifacts) -> "Audit":
        """An audit of other artifacts with the same reporter."""
        return Audit(artifacts, self.reporter)
