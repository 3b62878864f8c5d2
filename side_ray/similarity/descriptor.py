"""Cosine of the descriptors of any image encoder, which a YAML file beside its weights describes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import ValidationError, model_validator

from side_ray.config.base import Real, Section, Side, explained, omitted_by_default
from side_ray.errors import NotThere, UserError
from side_ray.similarity.base import EncoderSimilarity, Presets
from side_ray.similarity.weights import digest

KEY = "score.descriptor"
Channels = tuple[Real, Real, Real]


class Description(Section):
    """The keys of a descriptor's YAML file."""

    weights: str
    """ONNX or TorchScript, relative to the file: float [B, 3, h, w] to [B, d], or to what `pooling` makes [B, d] of."""
    name: str = "descriptor"
    """For the report."""
    short_side: Side | None = None
    """The short side is resized to it; the aspect ratio is kept."""
    size: Side | None = None
    """Side of the square that is then cut out of the centre; without `short_side`, both sides are resized to it."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Channels = (0.485, 0.456, 0.406)
    """Of each channel of pixels in [0, 1]; ImageNet's by default, as `std`."""
    std: Channels = (0.229, 0.224, 0.225)
    pooling: Literal["none", "first", "mean"] = "none"
    """Of an output [B, tokens, d] or [B, d, h, w]: the first token, or the mean over tokens or places."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.short_side is None and self.size is None:
            raise ValueError("size: is missing; give it, or short_side")
        if self.short_side is not None and self.size is not None and self.size > self.short_side:
            raise ValueError("size: no such square fits into an image of short_side; lower it")
        if min(self.std) <= 0:
            raise ValueError("std: must be positive; correct it")
        return self

    @classmethod
    def read(cls, path: str) -> "Description":
        """The content of a file.

        Raises:
            UserError: it cannot be read, or lacks what is needed.
        """
        # Late, because the whole config is made of the sections that this package extends.
        from side_ray.config.file import read_yaml

        try:
            values = read_yaml(Path(path).read_text(encoding="utf-8"), path)
        except (OSError, UnicodeDecodeError):
            raise NotThere(f"{path} is not a text file; give the path of a descriptor's YAML file", KEY) from None
        if not isinstance(values, dict):
            raise UserError(f"{path} holds no keys; it needs at least weights and size", KEY)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{path}: {'; '.join(explained(error, cls))}", KEY) from None

    def weights_beside(self, path: str) -> Path:
        """The path of the weights, for the path of the file."""
        return Path(path).parent / self.weights


class DescriptorOptions(Section):
    descriptor: str | None = omitted_by_default(None)
    """A YAML file that names the weights of an image encoder (ONNX, or TorchScript with `trust_descriptor`) and says how images
    are prepared for it."""
    trust_descriptor: bool = omitted_by_default(False)
    """Run weights in TorchScript, a program that can read and write files: only from a place that you trust."""


class Descriptor(EncoderSimilarity):
    """Cosine similarity of an encoder's descriptors, larger is closer."""

    Options = DescriptorOptions
    path_keys = frozenset({"descriptor"})
    unhashed_keys = frozenset({"trust_descriptor"})

    name = "descriptor"
    display_name = "descriptor cosine"
    presets: ClassVar[Presets] = {"descriptor": {"low": (0.7, 0.8), "mid": (0.8, 0.9), "high": (0.9, 1.0)}}
    default_preset = "descriptor"

    def __init__(self, path: str, *, device: str = "cpu", trusted: bool = False) -> None:
        # Late, because this module is imported whenever a config is read, and the encoder imports torch.
        from side_ray.similarity.encoder import ImageEncoder, Policy

        self.description = found = Description.read(path)
        policy = Policy(found.short_side, found.size, (found.mean, found.std), found.interpolation)
        weights = found.weights_beside(path)
        self.encoder = ImageEncoder(weights, policy, KEY, device=device, trusted=trusted, pooling=found.pooling)

    @classmethod
    def check_section(cls, section: Any) -> None:
        if not section.options(DescriptorOptions).descriptor:
            raise ValueError(f"{KEY}: similarity descriptor needs the path of a YAML file that describes the encoder")

    @classmethod
    def from_config(cls, score: Any) -> Self:
        import torch

        options = score.options(DescriptorOptions)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(options.descriptor, device=device, trusted=options.trust_descriptor)

    @classmethod
    def digest(cls, path: str) -> str:
        """SHA-256 of the file, and of the weights."""
        weights = Description.read(path).weights_beside(path)
        return hashlib.sha256(Path(path).read_bytes() + digest(weights).encode()).hexdigest()

    @classmethod
    def explain(cls, params: Mapping[str, Any]) -> str:
        return (
            f"Cosine of the descriptors of {params.get('encoder', 'an encoder')}, which says when images are alike to it. "
            "No band is known to mean a copy: go by the calibrated cut, which unseen images set."
        )

    @classmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        """1,024, the most that is usual."""
        return 1024

    def params(self) -> dict[str, Any]:
        return {"encoder": self.description.name, **self.encoder.params(), "pooling": self.description.pooling}
