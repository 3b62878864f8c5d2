"""The closed-form optimum of the members."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from side_ray.diffusion.denoisers.base import MadeFromMembers
from side_ray.diffusion.denoisers.layout import vae_files

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class Optimal(MadeFromMembers):
    """A directory of `OptimalDpm.save`: its `config.json` says `"kind": "optimal"`. With a VAE in it, its images are latents."""

    title = "closed-form"

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json
        from side_ray.diffusion.optimal import KIND

        path = directory / "config.json"
        if (directory / "model_index.json").exists() or not path.exists():
            return False
        return read_json(path).get("kind") == KIND

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        read = ("config.json", "images.safetensors", "scheduler/scheduler_config.json", "pixels.json")
        return [*(name for name in names if name in read), *vae_files(names, dpm.variant)]

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.optimal import OptimalDpm

        return OptimalDpm.load(directory, device)

    @classmethod
    def make(cls, images: "torch.Tensor", dpm: "DpmSection") -> "Dpm":
        from side_ray.diffusion.noise_process import new_schedule
        from side_ray.diffusion.optimal import OptimalDpm

        return OptimalDpm(images, new_schedule(dpm.schedule, dpm.timesteps))

    @classmethod
    def save(cls, model: Any, directory: Path) -> None:
        model.save(directory)

    @classmethod
    def flops(cls, members: int, shape: tuple[int, int, int]) -> int:
        # A product with every member for the distances, another for their mean.
        return 4 * members * math.prod(shape)
