"""A U-Net of latents with its VAE (`LDMPipeline`, or any `vae|vqvae|movq` beside `unet` and `scheduler`)."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from side_ray.config.base import Section
from side_ray.diffusion.denoisers.layout import NETWORKS, VAES
from side_ray.diffusion.denoisers.unet import Unet

if TYPE_CHECKING:
    import torch

    from side_ray.diffusion.dpm import Dpm


class Latent(Unet):
    """A directory with a `UNet2DModel`, its scheduler and a VAE, with or without `model_index.json`. The VAE itself is opened by
    `load_dpm`."""

    Options: ClassVar[type[Section]] = Section
    shared_options = False

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json

        configs = [path for name in NETWORKS if (path := directory / name / "config.json").exists()]
        if not configs or not any((directory / name).is_dir() for name in VAES):
            return False
        return read_json(configs[0]).get("_class_name", "UNet2DModel") == "UNet2DModel"

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.networks.loading import require_vae

        require_vae(directory)
        return super().load(directory, device)
