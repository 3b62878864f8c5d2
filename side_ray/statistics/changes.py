"""Copies that are found only after a change of the sample, because the training changed its images so, and copies that are not
found because they have lost detail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOSSES: Mapping[str, str] = {
    "jpeg_75": "saved as JPEG of quality 75",
    "jpeg_40": "saved as JPEG of quality 40",
    "half_size": "made half as large and enlarged again",
}
"""`images.LOSSES` in words."""
FOUND_AGAIN = 0.5
"""Share of training images that have to match themselves after a loss, or copies with that loss count as missed."""
HALVED_FROM = 32
"""Pixels of the shorter side, from which on an image that is made half as large still shows what it shows."""


def missed_losses(ceiling: Mapping[str, Any]) -> dict[str, float]:
    """By name, the losses after which few training images still match themselves, and the share that does: at the calibrated cut,
    or without one in the strictest band. Images that are small already lose what they show when they are halved: that is no
    fault of a similarity.

    Args:
        ceiling: `ceilings` of metrics.json, of one similarity.
    """
    shares = {
        name: list(found["within_bands"].values())[-1] if found["within_cut"] is None else found["within_cut"]
        for name, found in ceiling["changes"].items()
        if name != "half_size" or ceiling["side"] >= HALVED_FROM
    }
    return {name: share for name, share in shares.items() if share < FOUND_AGAIN}


@dataclass(frozen=True)
class Missed:
    """How often the first samples match members as they are, and only after a change, at the quoted criterion."""

    samples: int
    matches: int
    missed: int

    @property
    def many(self) -> bool:
        """Whether the training seems to have changed its images so: of flips, half of the copies are then mirrored."""
        return self.missed >= 5 and self.missed >= 0.1 * (self.matches + self.missed)


def remedy(change: str) -> str:
    """What to do where many samples match only after a change, as the end of a sentence."""
    from side_ray.images import TURNS  # imports pyarrow, and sections of the report are read with every config

    if change == "mirrored":
        return "if the model was trained with horizontal flips, set score.flips=true"
    if change in TURNS or change == "upside down":
        return (
            "if the training did not turn its images as their EXIF data says, set data.exif_orientation=false; else turn the "
            "samples, or compare with score.similarity=sscd"
        )
    return "the model was trained on pixels in another order (BGR); swap the channels of the samples, or in the model's output"
