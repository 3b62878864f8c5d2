"""The similarities by name."""

from collections.abc import Callable
from typing import Any

import torch

from side_ray.config import ScoreSection
from side_ray.errors import UserError
from side_ray.similarity.base import Similarity
from side_ray.similarity.nl2 import Nl2


def _sscd(**params: Any) -> Similarity:
    from side_ray.similarity.sscd import Sscd

    return Sscd(**params)


SIMILARITIES: dict[str, Callable[..., Similarity]] = {"nl2": Nl2, "sscd": _sscd}


def make_similarity(name: str, **params: Any) -> Similarity:
    """The similarity `name` with its parameters: nl2 (`alpha`, `n`), sscd (`checkpoint`, `policy`, `device`, `batch_size`).

    Raises:
        UserError: an unknown name, or parameters that it does not take.
    """
    if name not in SIMILARITIES:
        raise UserError(f"score.similarity: {name!r} is unknown; use one of {', '.join(SIMILARITIES)}")
    try:
        return SIMILARITIES[name](**params)
    except TypeError as error:
        raise UserError(f"score.similarity {name}: {error}; check its parameters") from None


def similarity_of(score: ScoreSection) -> Similarity:
    """The similarity γ that the config names.

    Raises:
        UserError: its weights cannot be loaded.
    """
    if score.similarity == "nl2":
        return make_similarity("nl2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return make_similarity("sscd", checkpoint=score.checkpoint, policy=score.preprocessing, device=device)
