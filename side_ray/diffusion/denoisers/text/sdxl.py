"""Stable Diffusion XL: a U-Net conditioned on text by two encoders, and on the size of the image (extra `text`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.layout import ENCODER
from side_ray.diffusion.denoisers.text.base import TextKind

if TYPE_CHECKING:
    from side_ray.diffusion.networks.text.base import TextDpm


class StableDiffusionXL(TextKind):
    """A directory with a `UNet2DConditionModel`, a scheduler, two tokenizers and text encoders, and a VAE
    (`StableDiffusionXLPipeline`), with or without `model_index.json`."""

    takes_lora = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        two = (directory / f"{ENCODER}_2").is_dir()
        return two and cls.config_of(directory).get("_class_name") == "UNet2DConditionModel"

    @classmethod
    def open(cls, directory: Path) -> "TextDpm":
        from side_ray.diffusion.networks.text.sdxl import load_sdxl

        return load_sdxl(directory)
