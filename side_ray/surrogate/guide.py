"""Opening a trained surrogate, or a base model, as what guides a draw."""

from pathlib import Path

import torch

from side_ray.diffusion.dpm import Dpm, load_dpm
from side_ray.diffusion.extrapolation import Extrapolation
from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.surrogate import lora
from side_ray.surrogate.lora import LoraSurrogate
from side_ray.surrogate.resnet import ResNet


def open_surrogate(
    directory: Path, scale: float, device: torch.device | str = "cpu", model: Dpm | None = None
) -> ClassifierSurrogate | LoraSurrogate:
    """The classifier or LoRA surrogate in a directory, guiding with λ = `scale`. A classifier without a time module, as OL-TI, is
    of images; a LoRA surrogate belongs to the DPM `model` and is on its device.

    Raises:
        UserError: a file is absent or damaged.
    """
    if (directory / lora.CONFIG).exists():
        if model is None:
            raise ValueError("a LoRA surrogate is opened with its model")
        return LoraSurrogate(lora.LoraNetwork.load(directory, model), scale, LatentStatistics.load(directory))
    network = ResNet.load(directory, device)
    network = network.fold() if network.config.folded else network.requires_grad_(False)
    latents = LatentStatistics.load(directory)
    return ClassifierSurrogate(network, network.config.num_classes, scale, latents, sees_images=not network.config.time)


def open_base(
    directory: Path,
    scale: float,
    device: torch.device | str = "cpu",
    latents: Path | None = None,
    interval: tuple[float, float] | None = None,
    *,
    code: bool = False,
) -> Extrapolation:
    """The base model in a directory, for extrapolation with λ = `scale`.

    Args:
        latents: directory of the statistics of a latent model's own samples.
        interval: `extract.base_interval`.
        code: as of `load_dpm`.

    Raises:
        UserError: a file is absent or damaged.
    """
    statistics = None if latents is None else LatentStatistics.load(latents)
    return Extrapolation(load_dpm(directory, device, code=code), scale, statistics, interval)
