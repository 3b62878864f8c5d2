"""A U-Net conditioned on text (`UNet2DConditionModel`), with the text encoder of Stable Diffusion 1 and 2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from side_ray.diffusion.condition.prompts import PromptEncoder
from side_ray.diffusion.denoisers.layout import INDEX, REFUSED, Layout, names_in
from side_ray.diffusion.files import read_json
from side_ray.diffusion.networks.loading import check_index, load_network, load_scheduler
from side_ray.diffusion.networks.text.base import TextDpm, check_widths, sides_of
from side_ray.diffusion.networks.text.encoders import CLIP, load_encoder, parts_in_index
from side_ray.errors import UserError

ENCODERS = {"": CLIP}
SIZES = "addition_embed_type"
OTHER_INPUTS = (SIZES, "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim")
"""Settings of a U-Net that takes more than a prompt."""


class TextUnetDpm(TextDpm):
    """A `UNet2DConditionModel` that attends to the states of a text encoder."""

    def pipeline(self) -> Any:
        from diffusers import StableDiffusionPipeline

        (only,) = self.encoder.parts
        return StableDiffusionPipeline(
            None, only.network, only.tokenizer, self.network, DDIMScheduler(), None, None, requires_safety_checker=False
        )

    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.network(x, t, encoder_hidden_states=condition, return_dict=False)[0]
        return found


def load_stable_diffusion(directory: Path) -> TextUnetDpm:
    """Open a directory of `unet`, `scheduler`, `tokenizer` and `text_encoder`, as of a `StableDiffusionPipeline`. A VAE and a
    safety checker beside it are left out.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    if (directory / INDEX).exists():
        check_index(directory / INDEX, "unet", ("UNet2DConditionModel",), parts_in_index(ENCODERS))
    layout, unet = load_unet(directory, OTHER_INPUTS)
    encoder = load_encoder(directory, "", CLIP)
    # As of the pipeline: no other one gives its text encoder a mask.
    encoder.masked = bool(getattr(encoder.network.config, "use_attention_mask", False))
    check_widths("the text encoder makes embeddings", encoder.width, widths_of(unet))
    shape = (unet.config["in_channels"], *sides_of(directory, unet.config["sample_size"]))
    return TextUnetDpm(unet, load_scheduler(directory, layout), PromptEncoder([encoder]), shape)


def load_unet(directory: Path, refused: Sequence[str]) -> tuple[Layout, UNet2DConditionModel]:
    """The U-Net of a pipeline, and where its parts are.

    Args:
        refused: settings of a U-Net that takes more than it is given.

    Raises:
        UserError: it takes more than noise, time and what it is given, or cannot be opened.
    """
    layout = Layout.of(names_in(directory))
    config: dict[str, Any] = read_json(directory / layout.unet / "config.json")
    channels, made = (config.get(name, 4) for name in ("in_channels", "out_channels"))
    if channels != made:
        raise UserError(
            f"a U-Net from {channels} to {made} channels takes more than noise, as those for inpainting do: {REFUSED}"
        )
    if other := [name for name in refused if config.get(name) is not None]:
        raise UserError(f"the U-Net takes more than a prompt ({other[0]}: {config[other[0]]}): {REFUSED}")
    return layout, load_network(directory / layout.unet, "U-Net", (UNet2DConditionModel,), layout.variant)


def widths_of(unet: UNet2DConditionModel) -> list[int]:
    """The numbers of an embedding that each block attends to."""
    widths: int | Sequence[int] = unet.config["cross_attention_dim"]
    return [widths] if isinstance(widths, int) else list(widths)
