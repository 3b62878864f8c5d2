"""A U-Net conditioned on text, as of Stable Diffusion 1 and 2, of latents or of pixels (extra `text`)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.layout import ENCODER, LORA, NETWORKS, Layout, text_files

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class Text(ModelKind):
    """A directory with a `UNet2DConditionModel`, a scheduler, `tokenizer/`, `text_encoder/` and perhaps a VAE
    (`StableDiffusionPipeline`), with or without `model_index.json`."""

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json

        configs = [path for name in NETWORKS if (path := directory / name / "config.json").exists()]
        if not configs or not (directory / ENCODER).is_dir():
            return False
        return read_json(configs[0]).get("_class_name") == "UNet2DConditionModel"

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        own = [name for name in names if LORA in names and re.fullmatch(r"lora/\d+\.safetensors", name)]
        return [*Layout.of(names, dpm.variant, dpm.weights == "ema").files, *text_files(names, dpm.variant), *own]

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.networks.text import load_text_dpm

        model = load_text_dpm(directory)
        if (directory / LORA).exists():
            from side_ray.diffusion.networks.lora import add_loras

            add_loras(model, directory)
        return model.to(device)
