"""Flux.1: a transformer conditioned on text by two encoders, with or without an embedded guidance scale (extra `text`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.layout import TRANSFORMER
from side_ray.diffusion.denoisers.text.base import TextKind

if TYPE_CHECKING:
    from side_ray.diffusion.networks.text.base import TextDpm


class Flux(TextKind):
    """A directory with a `FluxTransformer2DModel`, a scheduler, tokenizers with CLIP and T5, and a VAE (`FluxPipeline`), with or
    without `model_index.json`."""

    networks = (TRANSFORMER,)
    takes_lora = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        return cls.config_of(directory).get("_class_name") == "FluxTransformer2DModel"

    @classmethod
    def open(cls, directory: Path) -> "TextDpm":
        from side_ray.diffusion.networks.text.flux import load_flux

        return load_flux(directory)
