"""Section `score`: the similarity, its bands and the search."""

import math
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from side_ray.config.base import Count, Real, Section

Preset = Literal["cumulative", "paper", "sscd"]


Edge = float | None


OwnBands = dict[str, tuple[Edge, Edge]]


# Chosen by the value's type, so that a fault is told of the one form that was meant. A tag that is no identifier stays
# out of the key in the message.
BandSpec = Annotated[
    Annotated[Preset, Tag("a preset")] | Annotated[OwnBands, Tag("own bands")],
    Discriminator(lambda value: "own bands" if isinstance(value, dict) else "a preset"),
]


class ScoreSection(Section):
    similarity: Literal["nl2", "sscd"] = "nl2"
    bands: BandSpec | None = None
    """A preset's name or {low: [from, to], mid: …, high: …}; null is an open end. By default the similarity's own preset."""
    engine: Literal["auto", "faiss", "torch"] = "auto"
    shards: Count | None = None
    """Parts that the training features are split into, an actor each; chosen by their size where absent."""
    neighbors: Annotated[int, Field(strict=True, ge=50)] = 50
    false_match_rate: Annotated[Real, Field(gt=0, lt=0.5)] = 0.001
    """Share of the synthetic set that the calibrated cut lets match images that the DPM never saw."""
    checkpoint: str | None = None
    """SSCD weights: TorchScript or ONNX."""
    preprocessing: Literal["resize288", "resize320", "center224"] = "resize288"

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.similarity == "sscd" and not self.checkpoint:
            raise ValueError("score.checkpoint: similarity sscd needs the path of SSCD weights (TorchScript or ONNX)")
        if isinstance(self.bands, dict):
            if not self.bands:
                raise ValueError("score.bands: is empty; give at least one band or a preset's name")
            for name, (low, high) in self.bands.items():
                edges = [edge for edge in (low, high) if edge is not None]
                if not edges or any(math.isnan(edge) for edge in edges) or (len(edges) == 2 and edges[0] >= edges[1]):
                    raise ValueError(
                        f"score.bands: {name} is [{low}, {high}]; write [from, to] with from < to, null for an open end"
                    )
        return self
