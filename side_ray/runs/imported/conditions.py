"""What the conditions of samples are drawn from, where that is neither in the config nor in the model: the members' labels."""

import numpy as np

from side_ray.config import DpmSection
from side_ray.diffusion.condition.drawn import Conditioning
from side_ray.errors import UserError
from side_ray.runs.dataset import read_labels
from side_ray.runs.run import Artifact

CLASSES = "classes.json"


def write_conditions(target: Artifact, prepared: Artifact, dpm: DpmSection) -> None:
    """Write what `read_conditioning` reads.

    Args:
        prepared: the prepared images.

    Raises:
        UserError: the members have no labels.
    """
    labels = read_labels(prepared.store, prepared.key, "member")
    if labels is None:
        raise UserError("labels, but the training images have none; use model or uniform", "dpm.classes")
    target.write_json(CLASSES, {"counts": np.bincount(labels[labels >= 0]).tolist()})
    target.finish()


def read_conditioning(dpm: DpmSection, target: Artifact | None) -> Conditioning:
    """How samples are conditioned. `target`: what `write_conditions` wrote; None where the config needs none."""
    return Conditioning.of(dpm, () if target is None else target.read_json(CLASSES)["counts"])
