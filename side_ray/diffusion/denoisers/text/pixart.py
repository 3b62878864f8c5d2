"""PixArt-α and PixArt-Σ: a transformer conditioned on text by T5 (extra `text`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.layout import TRANSFORMER
from side_ray.diffusion.denoisers.text.base import TextKind

if TYPE_CHECKING:
    from side_ray.diffusion.networks.text.base import TextDpm


class PixArt(TextKind):
    """A directory with PixArt's transformer, a scheduler, a tokenizer with T5, a VAE and `model_index.json`
    (`PixArtAlphaPipeline`, `PixArtSigmaPipeline`)."""

    networks = (TRANSFORMER,)

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        config = cls.config_of(directory)
        # DiT's files of earlier versions name the class Transformer2DModel too.
        early = config.get("_class_name") == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single"
        return early or config.get("_class_name") == "PixArtTransformer2DModel"

    @classmethod
    def open(cls, directory: Path) -> "TextDpm":
        from side_ray.diffusion.networks.text.pixart import load_pixart

        return load_pixart(directory)
