"""A U-Net conditioned on text (`UNet2DConditionModel`), with the text encoder of Stable Diffusion 1 and 2."""

import re
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError

from side_ray.diffusion.condition.prompts import PromptEncoder
from side_ray.diffusion.denoisers.layout import (
    ENCODER,
    INDEX,
    REFUSED,
    TEXT_CLASSES,
    TEXT_WEIGHTS,
    TOKENIZER,
    Layout,
    names_in,
    variant_of,
)
from side_ray.diffusion.denoisers.network import NetworkDpm
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.networks.loading import (
    MOST_TRANSFORMER_LAYERS,
    check_index,
    check_size,
    load_network,
    load_scheduler,
)
from side_ray.diffusion.processes import Schedule
from side_ray.errors import UserError, first_line

IGNORED = re.compile(r"position_ids$")
"""Tensors in files of earlier versions of transformers, which are no weights."""
OTHER_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
"""Settings of a U-Net that takes more than a prompt."""


class TextDpm(NetworkDpm):
    """A `UNet2DConditionModel` with its noise process and text encoder. Its condition is embeddings of prompts.

    Args:
        unet: in eval mode.
        schedule: its noise process.
        encoder: of the prompts.

    Raises:
        UserError: they do not fit.
    """

    def __init__(self, unet: UNet2DConditionModel, schedule: Schedule, encoder: PromptEncoder) -> None:
        config = unet.config
        channels, size = config["in_channels"], config["sample_size"]
        sides = [size, size] if isinstance(size, int) else size
        if not isinstance(sides, (list, tuple)) or [type(side) for side in sides] != [int, int]:
            raise UserError(f"the U-Net's config must give sample_size, the images' [height, width], found {size!r}")
        widths = config["cross_attention_dim"]
        if {encoder.width} != ({widths} if isinstance(widths, int) else set(widths)):
            raise UserError(
                f"the text encoder makes embeddings of {encoder.width} numbers, the U-Net takes {widths}; they do not belong "
                "together"
            )
        super().__init__(schedule, (channels, *sides))
        self.unet, self.encoder = unet, encoder

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def to(self, device: torch.device | str) -> Self:
        """Move the U-Net and the text encoder; returns itself."""
        self.unet.to(device)
        self.encoder.to(device)
        return self

    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """As of `NetworkDpm`; `class_labels` are embeddings of prompts, float32 [B, L, D]."""
        if self.unet.training:
            raise ValueError("the U-Net is in training mode: call .eval() before sampling")
        if class_labels is None:
            raise ValueError("a text-conditioned U-Net needs embeddings of prompts")
        found: torch.Tensor = self.unet(x, t, encoder_hidden_states=class_labels, return_dict=False)[0]
        return found.float()


def load_text_dpm(directory: Path) -> TextDpm:
    """Open a directory of `unet`, `scheduler`, `tokenizer` and `text_encoder`, as of a `StableDiffusionPipeline`. A VAE and a
    safety checker beside it are left out.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    if (directory / INDEX).exists():
        check_index(directory / INDEX, "unet", ("UNet2DConditionModel",), TEXT_CLASSES)
    layout = Layout.of(names_in(directory))
    _check_inputs(read_json(directory / layout.unet / "config.json"))
    unet = load_network(directory / layout.unet, "U-Net", (UNet2DConditionModel,), layout.variant)
    return TextDpm(unet, load_scheduler(directory, layout), load_encoder(directory))


def _check_inputs(config: dict[str, Any]) -> None:
    """Raise UserError if a U-Net takes more than noise, time and prompt."""
    channels, made = (config.get(name, 4) for name in ("in_channels", "out_channels"))
    if channels != made:
        raise UserError(
            f"a U-Net from {channels} to {made} channels takes more than noise, as those for inpainting do: {REFUSED}"
        )
    if other := [name for name in OTHER_INPUTS if config.get(name) is not None]:
        raise UserError(f"the U-Net takes more than a prompt ({other[0]}: {config[other[0]]}): {REFUSED}")


def load_encoder(directory: Path) -> PromptEncoder:
    """The tokenizer and text encoder of a pipeline's directory, without a look at any hub.

    Raises:
        UserError: transformers is not installed, or they are missing or damaged, or of another class.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(
            f"text-conditioned models need the extra text: pip install 'side-ray[text]' ({first_line(error)})"
        ) from error
    path, config_of = directory / ENCODER, directory / ENCODER / "config.json"
    given = read_json(config_of)
    check_size(given, config_of, "text encoder")
    if given.get("architectures", ["CLIPTextModel"]) != ["CLIPTextModel"]:
        raise UserError(f"{config_of} is of a {', '.join(map(str, given['architectures']))}: {REFUSED}")
    layers = given.get("num_hidden_layers", 12)
    if not isinstance(layers, int) or layers > MOST_TRANSFORMER_LAYERS:
        raise UserError(f"{config_of}: num_hidden_layers must be a number up to {MOST_TRANSFORMER_LAYERS}")
    logging.disable_progress_bar()
    variant = variant_of(names_in(directory), f"{ENCODER}/", TEXT_WEIGHTS)
    try:
        network, info = CLIPTextModel.from_pretrained(
            path,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        tokenizer: Any = CLIPTokenizer.from_pretrained(directory / TOKENIZER, local_files_only=True)
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise UserError(f"the text encoder in {directory} cannot be loaded: {first_line(error)}") from error
    unexpected = [name for name in info["unexpected_keys"] if not IGNORED.search(name)]
    wrong = sorted(map(str, [*info["missing_keys"], *unexpected, *info["mismatched_keys"]]))
    if wrong:
        raise UserError(f"the weights in {path} do not fit config.json: {len(wrong)} tensors, first {wrong[0]}")
    check_finite(network.state_dict(), path)
    if tokenizer.model_max_length > network.config.max_position_embeddings:
        raise UserError(
            f"{directory / TOKENIZER}: model_max_length is {tokenizer.model_max_length}, more than the text encoder's "
            f"{network.config.max_position_embeddings} positions"
        )
    return PromptEncoder(tokenizer, network)
