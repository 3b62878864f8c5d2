"""PixArt-α and PixArt-Σ (Chen et al. 2023, 2024): a transformer of latents that attends to T5's states."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel

from side_ray.diffusion.condition.prompts import Encoded, PromptEncoder, packed, unpacked
from side_ray.diffusion.denoisers.layout import INDEX, TRANSFORMER, Layout, names_in
from side_ray.diffusion.files import read_json
from side_ray.diffusion.networks.loading import check_index, check_table, load_network, load_scheduler, require_vae
from side_ray.diffusion.networks.text.base import TextDpm, check_widths, sides_of
from side_ray.diffusion.networks.text.encoders import T5, load_encoder, parts_in_index
from side_ray.errors import UserError

CLASSES = ("PixArtTransformer2DModel", "Transformer2DModel")
"""Of the transformer: today, and earlier."""
TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""By the pipeline's class, how many of a prompt it reads."""
TABLE = {"sample_size": 128, "patch_size": 2, "num_attention_heads": 16, "attention_head_dim": 72}
"""Defaults of the settings that its table of positions is made of."""


class PixArtDpm(TextDpm):
    """A `PixArtTransformer2DModel`. Its condition is T5's states and which of them are padding.

    A model of 1024 × 1024 pixels may also be told the size of the image that is made, as PixArt-α is.
    """

    def pipeline(self) -> Any:
        raise UserError("diffusers adds no LoRA weights to PixArt", "dpm.lora")

    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        states, mask = unpacked(condition, self.encoder.parts[0].length)
        added: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.use_additional_conditions:
            height, width = self.image_shape[1:]
            added["resolution"] = states.new_tensor([[height, width]]).repeat(len(x), 1)
            added["aspect_ratio"] = states.new_tensor([[height / width]]).repeat(len(x), 1)
        found: torch.Tensor = self.network(
            x,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=t,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return found


def combined(encoded: Sequence[Encoded]) -> torch.Tensor:
    """The condition of a prompt, float32 [1, L + rows, D]."""
    (t5,) = encoded
    return packed(t5.states, t5.mask)


def prepared(prompt: str) -> str:
    """What PixArt's pipelines make of a prompt with `clean_caption=False`."""
    return prompt.lower().strip()


def load_pixart(directory: Path) -> PixArtDpm:
    """Open the directory of a `PixArtAlphaPipeline` or a `PixArtSigmaPipeline`.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    index = directory / INDEX
    name = read_json(index).get("_class_name") if index.exists() else None
    if name not in TOKENS:
        raise UserError(
            f"{index} must say {' or '.join(TOKENS)}, which read prompts of different length, and says {name or 'nothing'}"
        )
    check_index(index, TRANSFORMER, CLASSES, parts_in_index({"": T5}))
    require_vae(directory)
    layout, path = Layout.of(names_in(directory), networks=(TRANSFORMER,)), directory / TRANSFORMER
    check_table(path / "config.json", "PixArt", TABLE)
    transformer = load_network(path, "transformer", (PixArtTransformer2DModel,), layout.variant, CLASSES[1:])
    config = transformer.config
    channels, patch = config["in_channels"], config["patch_size"]
    if transformer.out_channels not in (channels, 2 * channels):
        raise UserError(f"a transformer from {channels} to {transformer.out_channels} channels is no diffusion model")
    t5 = load_encoder(directory, "", T5, length=TOKENS[name], masked=True, prepare=prepared)
    check_widths("T5 makes embeddings", t5.width, [config["caption_channels"] or config["cross_attention_dim"]])
    shape = (channels, *sides_of(directory, config["sample_size"], patch))
    return PixArtDpm(transformer, load_scheduler(directory, layout), PromptEncoder([t5], combined), shape)
