"""`second_opinions` of metrics.json: by similarity, the measures of every condition and, for reference, of unseen images."""

from collections.abc import Callable
from typing import Any

import numpy as np

from side_ray.errors import Damaged
from side_ray.runs.artifacts import Artifacts
from side_ray.runs.plan import Condition, conditions
from side_ray.runs.run import Artifact
from side_ray.runs.scores import TwoNearest, read_among_members, read_pool, read_two_nearest
from side_ray.similarity import SIMILARITIES
from side_ray.sources.select import SPLITS
from side_ray.statistics.opinions.authenticity import authenticity
from side_ray.statistics.opinions.copying import MORE_THAN, copying
from side_ray.statistics.opinions.frechet import memorization_informed
from side_ray.statistics.scores import diffmemorize

DISTANCES = {"l2": "L2 distance of pixel values", "ip": "Euclidean distance of unit vectors, √(2 − 2·cosine)"}
ONE_IMAGE = "there is one training image only"
NO_UNSEEN = "there are no unseen images to give a reference value"
FEW_SAMPLES = f"there are no more than {MORE_THAN} samples"
NO_FEATURES = "pixel values are no descriptors; score.also adds a similarity by descriptors"
ONE_SAMPLE = "a covariance takes two samples or more"


def second_opinions(artifacts: Artifacts) -> dict[str, Any]:
    """By the similarity of the config and those of `score.also`: the `distance` used, and by name the measures that are `absent`,
    each with the reason; `conditions`, and `unseen`, what unseen images get in the place of samples (None without any).

    Raises:
        Damaged: scores, or what was measured with them, cannot be read.
    """
    return {name: _Measured(each).everything() for name, each in artifacts.every.items()}


class _Measured:
    """The measures by one similarity."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        similarity = SIMILARITIES[artifacts.config.score.similarity]
        self.distance = DISTANCES[similarity.metric]
        self.absent: dict[str, str] = {}
        if artifacts.distinct["member"] < 2:
            self.absent |= dict.fromkeys(("ratio", "authenticity"), ONE_IMAGE)
        if not artifacts.cut_shards:
            self.absent |= dict.fromkeys(("authenticity", "copying"), NO_UNSEEN)
        elif artifacts.config.extract.samples <= MORE_THAN:
            self.absent["copying"] = FEW_SAMPLES
        if not similarity.stores_features:
            self.absent["frechet"] = NO_FEATURES
        elif artifacts.sizes["member"] < 2:
            self.absent["frechet"] = ONE_IMAGE
        elif artifacts.config.extract.samples < 2:
            self.absent["frechet"] = ONE_SAMPLE
        if artifacts.cut_shards:
            self._read_images()

    def _read_images(self) -> None:
        """What is known of the images of the audit; of duplicates that count as one, the first."""
        members, *unseen = (read_among_members(self.artifacts, split) for split in SPLITS)
        self.spacing = members.distance
        pool, size = read_pool(self.artifacts), len(members.image)
        self.cells = pool.stratum[:size]
        first = np.split(pool.group == np.arange(len(pool.group)), np.cumsum([size, len(unseen[0].image)]))[1:]
        self.calibration, self.holdout = (_only(each, kept) for each, kept in zip(unseen, first, strict=True))

    def everything(self) -> dict[str, Any]:
        many = conditions(self.artifacts.config)
        rows: list[dict[str, Any]] = []
        for each in many:
            found = read_two_nearest(self.artifacts, each)
            row = {"method": each.method, "lambda": each.scale, "n": len(found.image), **self._of(found, found, each)}
            if row["ratio"] is not None:
                two = found.unseen_two
                row["ratio"]["against_unseen"] = diffmemorize(*two.T) if two.shape[1] > 1 else None
            rows.append(row)
        return {"distance": self.distance, "absent": self.absent, "conditions": rows, "unseen": self._unseen()}

    def _unseen(self) -> dict[str, Any] | None:
        if not self.artifacts.cut_shards:
            return None
        parts = zip(*(vars(each).values() for each in (self.calibration, self.holdout)), strict=True)
        both = TwoNearest(*map(np.concatenate, parts))
        return {"n": len(both.image), **self._of(both, self.calibration, None)}

    def _of(self, found: TwoNearest, compared: TwoNearest, condition: Condition | None) -> dict[str, Any]:
        """The measures of some images; `compared` is what C_T compares with the holdout images."""

        def unless(name: str, measure: Callable[[], Any]) -> Any:
            return None if name in self.absent else measure()

        return {
            "ratio": unless("ratio", lambda: diffmemorize(*found.two.T)),
            "authenticity": unless("authenticity", lambda: authenticity(found.distance, self.spacing[found.image])),
            "copying": unless("copying", lambda: self._copying(compared)),
            "frechet": unless("frechet", lambda: self._frechet(found, condition)),
        }

    def _copying(self, found: TwoNearest) -> dict[str, Any] | None:
        held = self.holdout
        return copying(found.distance, self.cells[found.image], held.distance, self.cells[held.image])

    def _frechet(self, found: TwoNearest, condition: Condition | None) -> dict[str, Any]:
        known = _facts(self.artifacts.frechet(condition))
        # ‖a − b‖² = 2·(1 − cosine) of unit vectors.
        nearest = float((found.distance**2).mean() / 2)
        return {
            "value": known["distance"],
            "images": known["images"],
            "members": known["members"],
            "nearest": nearest,
            "informed": memorization_informed(known["distance"], nearest),
        }


def _only(images: TwoNearest, kept: np.ndarray) -> TwoNearest:
    return TwoNearest(*(each[kept] for each in vars(images).values()))


def _facts(artifact: Artifact) -> dict[str, Any]:
    """Raises Damaged, also where they are missing, so that they are made again."""
    try:
        return artifact.info()
    except FileNotFoundError:
        raise Damaged(artifact.marks, "is missing") from None
