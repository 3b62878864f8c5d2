"""Section `score`: the similarity, its bands and the search."""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from side_ray.config.base import Count, OpenSection, Real, omitted_by_default
from side_ray.registry import REGISTRIES

Edge = float | None

OwnBands = dict[str, tuple[Edge, Edge]]

# Chosen by the value's type, so that an error message is about the form that was meant. A tag that is not an identifier
# stays out of the key in the message.
BandSpec = Annotated[
    Annotated[str, Tag("a preset")] | Annotated[OwnBands, Tag("own bands")],
    Discriminator(lambda value: "own bands" if isinstance(value, dict) else "a preset"),
]


def _named(entry: str) -> tuple[str, str | None]:
    """The similarity's name, and the path of its file, of an entry of `score.also`."""
    return ("descriptor", entry) if entry.endswith((".yaml", ".yml")) else (entry, None)


class ScoreSection(OpenSection):
    """How samples are compared with the training set. Similarities add keys of their own."""

    registries: ClassVar[tuple[str, ...]] = ("score.similarity",)

    similarity: str = "nl2"
    """What is compared: pixels (`nl2`, for images up to about 64 × 64) or descriptors."""
    also: list[str] = omitted_by_default([])
    """Further similarities that every sample is compared by: names like `sscd`, or paths of descriptors' YAML files. Each has its
    own cut, control and verdict, which the report shows beside those of `similarity`."""
    bands: BandSpec | None = None
    """A preset's name or {low: [from, to], mid: …, high: …}; null is an open end. By default the similarity's own preset."""
    engine: Literal["auto", "faiss", "torch"] = "auto"
    """What searches for neighbours. Results are the same; `auto` takes what a short probe finds faster."""
    shards: Annotated[Count, Field(le=10_000)] | None = None
    """Parts that the training features are split into, one actor each; chosen by their size where absent."""
    neighbors: Annotated[int, Field(strict=True, ge=50, le=10_000)] = 50
    """Closest training images that are stored for each sample."""
    false_match_rate: Annotated[Real, Field(gt=0, lt=0.5)] = 0.001
    """Share of the synthetic set that may reach the calibrated cut by matching images that the DPM never saw."""
    flips: Literal["auto"] | bool = omitted_by_default("auto")
    """Compare each sample also mirrored left to right, with members and unseen images alike; the closer of the two counts.
    `auto`: where the DPM was trained here with `dpm.flips`. An imported model or given samples are not compared mirrored, but
    the first samples are probed, and a warning says if mirrored ones match."""

    features_cache: str | None = omitted_by_default(None)
    """Directory or s3:// prefix in which audits of the same images share the descriptors of the images. Whoever can write there
    can change what an audit finds. Without it they are stored in the run only. Pixels (`nl2`) are not stored."""

    reconstructions: Literal["auto"] | bool = omitted_by_default("auto")
    """Compare each sample also with the images as the model's VAE gives them back, members and unseen ones alike; the closer one
    counts. `auto`: for latent models."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        registry = REGISTRIES["score.similarity"]
        for entry, own in self.others.items():
            if own.similarity not in registry:
                raise ValueError(
                    f"score.also: {entry!r} is unknown; use one of {', '.join(registry.names)}, or a descriptor's YAML file"
                )
            if self.also.count(entry) > 1 or entry == self.similarity != "descriptor":
                raise ValueError(f"score.also: {entry} is named twice; drop one")
            registry[own.similarity].check_section(own)
        if isinstance(self.bands, str):
            self._check_preset(self.bands)
        elif self.bands is not None:
            if not self.bands:
                raise ValueError("score.bands: is empty; give at least one band or a preset's name")
            for name, (low, high) in self.bands.items():
                edges = [edge for edge in (low, high) if edge is not None]
                if not edges or not all(map(math.isfinite, edges)) or (len(edges) == 2 and edges[0] >= edges[1]):
                    raise ValueError(
                        f"score.bands: {name} is [{low}, {high}]; write [from, to] with from < to, null for an open end"
                    )
        return self

    def _check_preset(self, preset: str) -> None:
        """Refuse a preset that the similarity does not have."""
        registry = REGISTRIES["score.similarity"]
        own = list(registry[self.similarity].presets)
        if preset in own:
            return
        others = [name for name in registry.names if preset in registry[name].presets]
        what = f"is for score.similarity {' and '.join(others)}" if others else "is unknown"
        raise ValueError(f"score.bands: preset {preset} {what}; use {', '.join([*own, 'or bands of your own'])}")

    def items(self, key: str) -> set[str]:
        return {self.similarity, *(name for name, _ in map(_named, self.also))}

    @property
    def others(self) -> dict[str, Self]:
        """By entry of `also`, the section by which it compares; with its own preset's bands."""
        found = {}
        for entry in self.also:
            name, path = _named(entry)
            change: dict[str, Any] = {"similarity": name, "also": [], "bands": None} | (
                {"descriptor": path} if path else {}
            )
            found[entry] = self.model_copy(update=change)
        return found

    def settings(self) -> dict[str, Any]:
        """What the values and the stored neighbours depend on: it goes into the fingerprint of the scores."""
        own = self.item_keys("score.similarity") - self.item("score.similarity").unhashed_keys
        return self.model_dump(mode="json", include={"similarity", "neighbors", *own})
