"""A U-Net of latents with its VAE (`LDMPipeline`, or any `vae|vqvae|movq` beside `unet` and `scheduler`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.layout import INDEX, NETWORKS, VAES, Layout, check_alone

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class Latent(ModelKind):
    """A directory with a `UNet2DModel`, its scheduler and a VAE, with or without `model_index.json`. The VAE itself is opened by
    `load_dpm`."""

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json

        configs = [path for name in NETWORKS if (path := directory / name / "config.json").exists()]
        if not configs or not any((directory / name).is_dir() for name in VAES):
            return False
        return read_json(configs[0]).get("_class_name", "UNet2DModel") == "UNet2DModel"

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        if INDEX not in names:
            check_alone(name.split("/")[0] for name in names if "/" in name)
        return list(Layout.of(names, dpm.variant, dpm.weights == "ema").files)

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.networks.loading import require_vae
        from side_ray.diffusion.unet_dpm import load_unet_dpm

        require_vae(directory)
        return load_unet_dpm(directory, device)
