"""Diffusion models around diffusers' `UNet2DModel`: making, opening and writing them, and their deepest latent."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.denoisers.layout import INDEX, Layout, check_alone, names_in
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.networks.loading import (
    MOST_PARAMETERS,
    REFUSALS,
    check_index,
    load_network,
    load_scheduler,
    parameters_of,
)
from side_ray.diffusion.processes import Schedule
from side_ray.errors import UserError, first_line

if TYPE_CHECKING:  # diffusers takes seconds to import: only where a model is made or opened
    from diffusers import UNet2DModel


class UnetDpm(NetworkDpm):
    """A `UNet2DModel` with its noise process; whatever it predicts comes out as (ẑ₀, ε̂).

    Args:
        unet: in eval mode. With 2·C output channels (learned variance) the first C are taken.
        schedule: its noise process, which says what the U-Net outputs.
        condition: how often a class-conditional U-Net saw each class; by default all equally often.

    Raises:
        UserError: the U-Net's config has no image size, its channels do not fit, or its class embedding takes no class indices.
    """

    def __init__(self, unet: "UNet2DModel", schedule: Schedule, condition: Condition | None = None) -> None:
        config = unet.config
        channels, size = config["in_channels"], config["sample_size"]
        sides = [size, size] if isinstance(size, int) else size
        if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
            raise UserError(f"the U-Net's config must give sample_size, the images' [height, width], found {size!r}")
        if config["out_channels"] not in (channels, 2 * channels):
            raise UserError(f"a U-Net from {channels} to {config['out_channels']} channels is no diffusion model")
        if config["class_embed_type"] is not None:
            raise UserError(f"class_embed_type {config['class_embed_type']!r} is not supported, only num_class_embeds")
        super().__init__(schedule, (channels, *sides), config["num_class_embeds"], condition)
        self.unet = unet

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def to(self, device: torch.device | str) -> Self:
        """Move the U-Net; returns itself."""
        self.unet.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        if self.unet.training:
            raise ValueError("the U-Net is in training mode: call .eval() before sampling")
        if (class_labels is None) != (self.num_classes is None):
            raise ValueError("class labels go with a class-conditional U-Net (num_class_embeds), and only with one")
        output: torch.Tensor = self.unet(x, t, class_labels=class_labels, return_dict=False)[0]
        return output.float()[:, : self.latent_shape[0]]


def load_unet_dpm(directory: Path, device: torch.device | str = "cpu") -> UnetDpm:
    """Open a diffusers pipeline of one U-Net and one scheduler, or a bare U-Net directory (layouts: see `load_dpm`). A VAE beside
    it is left out.

    Raises:
        UserError: a file is missing or damaged, the weights are pickled, or the pipeline has other components.
    """
    from diffusers import UNet2DModel

    if (directory / INDEX).exists():
        check_index(directory / INDEX, "unet", ("UNet2DModel",))
    else:
        check_alone(path.name for path in directory.iterdir() if path.is_dir())
    layout = Layout.of(names_in(directory))
    unet = load_network(directory / layout.unet, "U-Net", (UNet2DModel,), layout.variant)
    schedule = load_scheduler(directory, layout)
    classes = unet.config["num_class_embeds"]
    return UnetDpm(unet, schedule, None if classes is None else Condition.load(directory, classes)).to(device)


def save_pipeline(unet: "UNet2DModel", scheduler_config: Mapping[str, Any], directory: Path | str) -> None:
    """Write a plain `DDPMPipeline` directory (model_index.json, unet/, scheduler/; safetensors), which diffusers opens.

    Args:
        unet: the model, EMA weights already in place.
        scheduler_config: `schedule.config`.
        directory: made if absent.
    """
    from diffusers import DDPMPipeline, DDPMScheduler

    pipeline = DDPMPipeline(unet, DDPMScheduler.from_config(dict(scheduler_config)))
    pipeline.save_pretrained(directory, safe_serialization=True)


def new_unet(config: Mapping[str, Any], image_shape: tuple[int, int, int]) -> "UNet2DModel":
    """An untrained U-Net for images of a shape.

    Args:
        config: arguments of `UNet2DModel` (`block_out_channels`, `layers_per_block`, `num_class_embeds`, …). Channels
            and size come from `image_shape`; without block types every level is a plain convolutional one.
        image_shape: (C, H, W); H and W must be divisible by 2^(levels−1).

    Raises:
        UserError: an unknown argument, a value that diffusers refuses, or a size that cannot be halved often enough.
    """
    from diffusers import UNet2DModel

    channels, height, width = image_shape
    arguments: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1} | dict(config)
    widths = arguments["block_out_channels"]
    if not isinstance(widths, (list, tuple)) or not widths:
        raise UserError(f"block_out_channels must list the width of each U-Net level, found {widths!r}")
    levels = len(widths)
    arguments.setdefault("down_block_types", ("DownBlock2D",) * levels)
    arguments.setdefault("up_block_types", ("UpBlock2D",) * levels)
    halvings = 2 ** (levels - 1)
    if height % halvings or width % halvings:
        raise UserError(f"{levels} U-Net levels need sides divisible by {halvings}, the images are {height}×{width}")

    def make() -> UNet2DModel:
        return UNet2DModel(sample_size=(height, width), in_channels=channels, out_channels=channels, **arguments)

    try:
        if (parameters := parameters_of(make)) > MOST_PARAMETERS:
            raise UserError(f"this U-Net has {parameters:,} parameters, more than {MOST_PARAMETERS:,}")
        return make()
    except REFUSALS as error:
        raise UserError(f"diffusers refuses this U-Net: {first_line(error)}") from error


@torch.no_grad()
def middle_block(
    dpm: UnetDpm, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None
) -> torch.Tensor:
    """The output of the U-Net's middle block, averaged over its positions. Not for two threads on one U-Net at a time.

    Args:
        dpm: a U-Net; the closed-form DPM has no such block.
        x_t: float32 [B, C, H, W].
        t: int64 [B] in 0 … T−1.
        class_labels: int64 [B] for a class-conditional U-Net.

    Returns:
        float32 [B, channels of the deepest level].
    """
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(output.float().mean(dim=(2, 3)))

    handle = dpm.unet.mid_block.register_forward_hook(keep)
    try:
        dpm.eps(x_t, t, class_labels)
    finally:
        handle.remove()
    return found[0]
