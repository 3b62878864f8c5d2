"""A U-Net conditioned on text, as of Stable Diffusion 1 and 2, of latents or of pixels (extra `text`)."""

from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.layout import ENCODER, SUFFIXES
from side_ray.diffusion.denoisers.text.base import TextKind

if TYPE_CHECKING:
    from side_ray.diffusion.networks.text.base import TextDpm


class StableDiffusion(TextKind):
    """A directory with a `UNet2DConditionModel`, a scheduler, `tokenizer/`, `text_encoder/` and perhaps a VAE
    (`StableDiffusionPipeline`), with or without `model_index.json`."""

    takes_lora = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        one, *more = [(directory / f"{ENCODER}{suffix}").is_dir() for suffix in SUFFIXES]
        return one and not any(more) and cls.config_of(directory).get("_class_name") == "UNet2DConditionModel"

    @classmethod
    def open(cls, directory: Path) -> "TextDpm":
        from side_ray.diffusion.networks.text.stable_diffusion import load_stable_diffusion

        return load_stable_diffusion(directory)
