"""Flux.1 (Black Forest Labs): a transformer of latents and prompts together, sampled by flow matching."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch.nn import functional

from side_ray.diffusion.condition.prompts import Encoded, PromptEncoder, packed, unpacked
from side_ray.diffusion.denoisers.layout import INDEX, TRANSFORMER, Layout, names_in
from side_ray.diffusion.networks.loading import check_index, load_flow, load_network, require_vae
from side_ray.diffusion.networks.text.base import TextDpm, check_widths, sides_of
from side_ray.diffusion.networks.text.encoders import CLIP, T5, load_encoder, parts_in_index
from side_ray.errors import UserError

ENCODERS = {"": CLIP, "_2": T5}
T5_TOKENS = 512
SAMPLE_SIZE = 128
"""Of latents along each side where no size is asked for: that of the pipeline, because the network has none."""
PATCH = 2


class FluxDpm(TextDpm):
    """A `FluxTransformer2DModel`, whose tokens are patches of 2 × 2 latents.

    Its condition is T5's states, what CLIP pools, and a guidance scale, which is 1 as `encoder` makes it.
    """

    @property
    def guidance_embedded(self) -> bool:
        """Whether the network is told the guidance scale, with which one evaluation is a guided one (Meng et al. 2023)."""
        return bool(self.network.config["guidance_embeds"])

    def guided(self, condition: torch.Tensor, scale: float) -> torch.Tensor:
        """Conditions [B, L, D] with another guidance scale."""
        states, pooled, known = self._parts(condition)
        return packed(states, pooled, torch.full_like(known, scale))

    def pipeline(self) -> Any:
        from diffusers import FluxPipeline

        (clip, t5), schedule = self.encoder.parts, FlowMatchEulerDiscreteScheduler()
        return FluxPipeline(schedule, None, clip.network, clip.tokenizer, t5.network, t5.tokenizer, self.network)

    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        states, pooled, scale = self._parts(condition)
        patches = functional.pixel_unshuffle(x, PATCH)
        height, width = patches.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=2).flatten(0, 1)
        found: torch.Tensor = self.network(
            patches.flatten(2).transpose(1, 2),
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=t / 1000,
            guidance=scale[:, 0] if self.guidance_embedded else None,
            img_ids=places.to(x),
            txt_ids=torch.zeros(states.shape[1], 3).to(x),
            return_dict=False,
        )[0]
        return functional.pixel_shuffle(found.transpose(1, 2).unflatten(2, (height, width)), PATCH)

    def _parts(self, condition: torch.Tensor) -> list[torch.Tensor]:
        return unpacked(condition, self.encoder.parts[0].pooled_width, 1)


def combined(encoded: Sequence[Encoded]) -> torch.Tensor:
    """The condition of a prompt, float32 [1, T5_TOKENS + rows, D]."""
    clip, t5 = encoded
    assert clip.pooled is not None
    return packed(t5.states, clip.pooled, clip.pooled.new_ones(1, 1))


def load_flux(directory: Path) -> FluxDpm:
    """Open the directory of a `FluxPipeline`, with or without `model_index.json`.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    if (directory / INDEX).exists():
        check_index(directory / INDEX, TRANSFORMER, ("FluxTransformer2DModel",), parts_in_index(ENCODERS))
    require_vae(directory)
    layout = Layout.of(names_in(directory), networks=(TRANSFORMER,))
    transformer = load_network(directory / TRANSFORMER, "transformer", (FluxTransformer2DModel,), layout.variant)
    config = transformer.config
    channels = config["in_channels"]
    if transformer.out_channels != channels or channels % PATCH**2 or config["patch_size"] != 1:
        raise UserError(
            f"a transformer from {channels} to {transformer.out_channels} channels takes more than noise, as those for filling "
            "in and control do: give the model for text alone"
        )
    height, width = sides_of(directory, SAMPLE_SIZE, PATCH)
    clip, t5 = load_encoder(directory, "", CLIP), load_encoder(directory, "_2", T5, length=T5_TOKENS)
    check_widths("CLIP pools a prompt to an embedding", clip.pooled_width, [config["pooled_projection_dim"]])
    check_widths("T5 makes embeddings", t5.width, [config["joint_attention_dim"]])
    schedule = load_flow(directory, layout, height * width // PATCH**2, even=True)
    encoder = PromptEncoder([clip, t5], combined)
    return FluxDpm(transformer, schedule, encoder, (channels // PATCH**2, height, width))
