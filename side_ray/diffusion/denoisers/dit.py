"""DiT, a transformer of latents conditional on classes, with its VAE (`DiTPipeline`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.layout import DIT_CLASSES, TRANSFORMER, VAES, Layout

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class DiT(ModelKind):
    """A directory with DiT's transformer, its scheduler and a VAE, with or without `model_index.json`."""

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json

        path = directory / TRANSFORMER / "config.json"
        if not path.exists() or not any((directory / name).is_dir() for name in VAES):
            return False
        config = read_json(path)
        # PixArt's files name the class Transformer2DModel too.
        return config.get("_class_name") in DIT_CLASSES and config.get("norm_type", "ada_norm_zero") == "ada_norm_zero"

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        return list(Layout.of(names, dpm.variant, dpm.weights == "ema", (TRANSFORMER,)).files)

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.networks.dit import load_dit

        return load_dit(directory).to(device)
