"""Stable Diffusion 3 and 3.5: a transformer conditioned on text by two or three encoders (extra `text`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.layout import TRANSFORMER
from side_ray.diffusion.denoisers.text.base import TextKind

if TYPE_CHECKING:
    from side_ray.diffusion.networks.text.base import TextDpm


class StableDiffusion3(TextKind):
    """A directory with an `SD3Transformer2DModel`, a scheduler, two tokenizers with CLIP encoders, perhaps a third with T5, and
    a VAE (`StableDiffusion3Pipeline`), with or without `model_index.json`."""

    networks = (TRANSFORMER,)
    takes_lora = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        return cls.config_of(directory).get("_class_name") == "SD3Transformer2DModel"

    @classmethod
    def open(cls, directory: Path) -> "TextDpm":
        from side_ray.diffusion.networks.text.sd3 import load_sd3

        return load_sd3(directory)
