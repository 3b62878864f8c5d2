"""SSCD copy-detection descriptors (Pizzi et al. 2022), compared by cosine similarity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from side_ray.config.base import Section, omitted_by_default
from side_ray.similarity.base import EncoderSimilarity, Presets

CHECKPOINT = "score.checkpoint"


class SscdOptions(Section):
    checkpoint: str | None = None
    """SSCD weights: ONNX, or TorchScript with `trust_checkpoint`."""
    trust_checkpoint: bool = omitted_by_default(False)
    """Run weights in TorchScript, a program that can read and write files: only from a place that you trust."""
    preprocessing: Literal["resize288", "resize320", "center224"] = "resize288"
    """How images are prepared: the short side resized to 288, both sides to 320, or a centre crop of 224."""


class Sscd(EncoderSimilarity):
    """Cosine similarity of SSCD descriptors, larger is closer. See `encoder.ImageEncoder` for the arguments."""

    Options = SscdOptions
    # surrogate.features sscd reads them too.
    shared_options = True

    path_keys = frozenset({"checkpoint"})
    unhashed_keys = frozenset({"trust_checkpoint"})

    name = "sscd"
    display_name = "SSCD cosine"
    presets: ClassVar[Presets] = {"sscd": {"low": (0.4, 0.5), "mid": (0.5, 0.6), "high": (0.6, 1.0)}}
    default_preset = "sscd"

    def __init__(
        self,
        checkpoint: str | Path,
        policy: str = "resize288",
        *,
        device: str = "cpu",
        batch_size: int = 64,
        trusted: bool = False,
    ) -> None:
        # Late, because this module is imported whenever a config is read, and the encoder imports torch.
        from side_ray.similarity.encoder import ImageEncoder

        self.encoder = ImageEncoder(
            checkpoint, policy, CHECKPOINT, device=device, batch_size=batch_size, trusted=trusted
        )

    @classmethod
    def check_section(cls, section: Any) -> None:
        if not section.options(SscdOptions).checkpoint:
            raise ValueError(f"{CHECKPOINT}: similarity sscd needs the path of SSCD weights (ONNX or TorchScript)")

    @classmethod
    def from_config(cls, score: Any) -> Self:
        import torch

        options = score.options(SscdOptions)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(options.checkpoint, options.preprocessing, device=device, trusted=options.trust_checkpoint)

    @classmethod
    def explain(cls, params: Mapping[str, Any]) -> str:
        return (
            "Cosine of SSCD copy-detection descriptors. 90% precision on DISC takes more than 0.75, so the paper's “high” band "
            "(0.6) is less strict than that."
        )

    @classmethod
    def dimension(cls, shape: tuple[int, int, int]) -> int:
        """512, that of `sscd_disc_mixup`."""
        return 512

    def params(self) -> dict[str, Any]:
        return self.encoder.params()
