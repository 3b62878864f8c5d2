"""How long an audit still takes, from the rates that this run has shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from side_ray.errors import Damaged, UserError
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.cost.sampling import unit_flops
from side_ray.runs.status import to_do

BESIDE_S = {"score": 15.0, "report": 15.0}
OTHERWISE_S = 5.0
"""Seconds of a stage beside what its units take: its processes start, and files are written."""
BARS = {"synthesize": "synthetic"}
"""Stages whose bar has another name than their row in `status`."""


@dataclass(frozen=True)
class Part:
    """A stage, as named in `status`, with its units that are missing, and the FLOPs of the model and of a classifier of each."""

    name: str
    left: int
    model: float = 0.0
    classifier: float = 0.0


def parts_of(artifacts: Artifacts) -> list[Part]:
    """The stages of an audit that are not complete, in their order. Raises UserError if the size of the images is not known."""
    flops = unit_flops(artifacts) if artifacts.config.given is None else {}
    return [Part(each.stage, each.left, *flops.get(each.stage, ())) for each in to_do(artifacts) if each.left]


def planned_seconds(artifacts: Artifacts, samples_per_s: float) -> dict[str, float]:
    """Seconds that each stage which is not complete takes on one device, by its name in `status`.

    Args:
        samples_per_s: guided samples per second of the device; of an audit of given samples, those that it reads and compares.
    """
    parts = parts_of(artifacts)
    flops = (1.0, 0.0) if artifacts.config.given else unit_flops(artifacts)["extract"]
    pace = 1 / (samples_per_s * sum(flops))
    units = {each.name: each.model + each.classifier or float(each.name == "score") for each in parts}
    return {each.name: each.left * units[each.name] * pace + BESIDE_S.get(each.name, OTHERWISE_S) for each in parts}


class Forecast:
    """Tells the time left of an audit while its stages run.

    A stage's rate gives the seconds of a FLOP of the model, or of a classifier. Later stages are taken to compute as fast; where
    only one of the two is known, it stands for both. So the forecast begins with the first stage that trains or samples, and
    each stage makes it better.
    """

    def __init__(self, artifacts: Artifacts, parts: Sequence[Part] | None = None) -> None:
        self._artifacts, self._parts = artifacts, parts
        self._pace: dict[str, float] = {}
        self._at = 0

    def left(self, title: str, rate: float, units: int) -> float | None:
        """Seconds until the audit is done; None as long as nothing says it.

        Args:
            title: that of the bar of the running stage.
            rate: its units per second.
            units: its units that are left.
        """
        if self._parts is None:
            try:
                self._parts = parts_of(self._artifacts)
            except (UserError, Damaged):  # the stage that needs what is damaged says so
                self._parts = ()
        name = BARS.get(title, title)
        names = (name, f"control: {name}")
        place = next((i for i, each in enumerate(self._parts) if i >= self._at and each.name in names), None)
        if place is None or rate <= 0:
            return None
        self._at = place
        self._measure(self._parts[place], 1 / rate)
        if not self._pace and not self._artifacts.config.given:
            return None
        return units / rate + sum(self._seconds(each) for each in self._parts[place + 1 :])

    def _measure(self, part: Part, seconds: float) -> None:
        expected = self._unit(part)
        if expected and part.model and part.classifier:
            # Which of the two is slower than thought cannot be told, so both are.
            self._pace = {kind: pace * seconds / expected for kind, pace in self._pace.items()}
        elif part.model:
            self._pace["model"] = seconds / part.model
        elif part.classifier:
            self._pace["classifier"] = seconds / part.classifier

    def _unit(self, part: Part) -> float:
        """Seconds of one unit; 0 where it does not compute, or nothing is known yet."""
        known = self._pace or {"": 0.0}
        pace: Mapping[str, float] = dict.fromkeys(("model", "classifier"), next(iter(known.values()))) | known
        return part.model * pace["model"] + part.classifier * pace["classifier"]

    def _seconds(self, part: Part) -> float:
        return part.left * self._unit(part) + BESIDE_S.get(part.name, OTHERWISE_S)
