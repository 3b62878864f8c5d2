"""Opening a trained classifier as what guides a draw."""

from pathlib import Path

import torch

from side_ray.diffusion.guidance import ClassifierSurrogate
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.surrogate.resnet import ResNet


def open_surrogate(directory: Path, scale: float, device: torch.device | str = "cpu") -> ClassifierSurrogate:
    """The classifier in a directory, guiding with λ = `scale`. One without a time module, as OL-TI, is of images.

    Raises:
        UserError: a file is absent or damaged.
    """
    network = ResNet.load(directory, device).requires_grad_(False)
    latents = LatentStatistics.load(directory)
    return ClassifierSurrogate(network, network.config.num_classes, scale, latents, sees_images=not network.config.time)
