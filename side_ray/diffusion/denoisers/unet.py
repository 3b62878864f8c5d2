"""diffusers' U-Net, trained here or imported as a pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from side_ray.config.base import Count, Section, Share
from side_ray.config.dpm import MOST_BLOCKS, MOST_LAYERS
from side_ray.diffusion.denoisers.base import ModelKind
from side_ray.diffusion.denoisers.layout import INDEX, NETWORKS, Layout, check_alone

if TYPE_CHECKING:
    import torch

    from side_ray.config import DpmSection
    from side_ray.diffusion.dpm import Dpm


class UnetSection(Section):
    """Arguments of diffusers' `UNet2DModel` by their own names."""

    block_out_channels: list[Annotated[Count, Field(le=8192)]] = Field(
        default=[128, 128, 256, 256, 512, 512], max_length=MOST_BLOCKS
    )
    """Channels of each block, from the image down. Each must be a multiple of `norm_num_groups`."""
    down_block_types: list[str] = ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"]
    """One for each block, with or without attention."""
    up_block_types: list[str] = ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4
    """One for each block on the way back up."""
    layers_per_block: Annotated[Count, Field(le=MOST_LAYERS)] = 2
    """Residual layers of a block."""
    norm_num_groups: Count = 32
    """Groups of the group normalization."""
    attention_head_dim: Annotated[Count, Field(le=8192)] = 8
    """Channels of an attention head."""
    dropout: Share = 0.0
    """Share of activations that training drops."""

    @model_validator(mode="after")
    def _same_depth(self) -> Self:
        depths = {len(self.block_out_channels), len(self.down_block_types), len(self.up_block_types)}
        if len(depths) > 1:
            raise ValueError("block_out_channels, down_block_types and up_block_types must be equally long")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(
                f"every entry of block_out_channels must be a multiple of norm_num_groups ({self.norm_num_groups})"
            )
        return self


class UnetOptions(Section):
    unet: UnetSection = UnetSection()
    """The U-Net that is trained."""


def unet_section(dpm: "DpmSection") -> UnetSection:
    """`dpm.unet` of a config."""
    return dpm.options(UnetOptions).unet


class Unet(ModelKind):
    """A `DDPMPipeline` directory and its relatives, see `load_dpm`."""

    Options: ClassVar[type[Section]] = UnetOptions
    # An override `dpm.kind=optimal` of a config that trains a U-Net need not drop its section.
    shared_options = True

    @classmethod
    def recognizes(cls, directory: Path) -> bool:
        from side_ray.diffusion.files import read_json

        if any((directory / name).exists() for name in (INDEX, *NETWORKS)):
            return True
        path = directory / "config.json"
        return path.exists() and "kind" not in read_json(path)

    @classmethod
    def files(cls, names: Sequence[str], dpm: "DpmSection") -> list[str]:
        if INDEX not in names:
            check_alone(name.split("/")[0] for name in names if "/" in name)
        return list(Layout.of(names, dpm.variant, dpm.weights == "ema").files)

    @classmethod
    def load(cls, directory: Path, device: "torch.device | str") -> "Dpm":
        from side_ray.diffusion.unet_dpm import load_unet_dpm

        return load_unet_dpm(directory, device)
