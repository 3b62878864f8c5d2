"""Stable Diffusion XL (Podell et al. 2023): a U-Net conditioned on two text encoders and on the size of the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler

from side_ray.diffusion.condition.prompts import Encoded, PromptEncoder, packed, unpacked
from side_ray.diffusion.denoisers.layout import ENCODER, INDEX, REFUSED
from side_ray.diffusion.files import read_json
from side_ray.diffusion.networks.loading import check_index, load_scheduler, require_vae
from side_ray.diffusion.networks.text.base import TextDpm, check_widths, sides_of
from side_ray.diffusion.networks.text.encoders import CLIP, CLIP_PROJECTED, load_encoder, parts_in_index
from side_ray.diffusion.networks.text.stable_diffusion import OTHER_INPUTS, SIZES, load_unet, widths_of
from side_ray.errors import UserError

ENCODERS = {"": CLIP, "_2": CLIP_PROJECTED}


class SdxlDpm(TextDpm):
    """A `UNet2DConditionModel` of `StableDiffusionXLPipeline`.

    Its condition is the states of the layer before the last of both text encoders, side by side, and what the second one pools.
    As the pipeline does by default it is told that the image had the size that is made, and was not cropped.
    """

    def pipeline(self) -> Any:
        from diffusers import StableDiffusionXLPipeline

        first, second = self.encoder.parts
        return StableDiffusionXLPipeline(
            None, first.network, second.network, first.tokenizer, second.tokenizer, self.network, DDIMScheduler()
        )

    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        states, pooled = unpacked(condition, self.encoder.parts[1].pooled_width)
        height, width = self.image_shape[1:]
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=pooled.dtype, device=x.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(x), -1)}
        found: torch.Tensor = self.network(
            x, t, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
        )[0]
        return found


def combined(encoded: Sequence[Encoded]) -> torch.Tensor:
    """The condition of a prompt, float32 [1, L + rows, D₁ + D₂]."""
    first, second = encoded
    assert second.pooled is not None
    return packed(torch.cat([first.states, second.states], dim=2), second.pooled)


def load_sdxl(directory: Path) -> SdxlDpm:
    """Open the directory of a `StableDiffusionXLPipeline`, with or without `model_index.json`.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components, as a refiner's has.
    """
    if not (directory / ENCODER).is_dir():
        raise UserError(
            f"{directory} has text_encoder_2 and no text_encoder, like a refiner of Stable Diffusion XL, which makes no image of "
            f"noise: give the base model; {REFUSED}"
        )
    index = {}
    if (directory / INDEX).exists():
        check_index(directory / INDEX, "unet", ("UNet2DConditionModel",), parts_in_index(ENCODERS))
        index = read_json(directory / INDEX)
    require_vae(directory)
    layout, unet = load_unet(directory, [name for name in OTHER_INPUTS if name != SIZES])
    encoders = [load_encoder(directory, suffix, kind, penultimate=True) for suffix, kind in ENCODERS.items()]
    lengths = [each.length for each in encoders]
    if lengths[0] != lengths[1]:
        raise UserError(f"its tokenizers make {lengths[0]} and {lengths[1]} tokens; they do not belong together")
    check_widths("the text encoders make embeddings", sum(each.width for each in encoders), widths_of(unet))
    config = unet.config
    if config[SIZES] != "text_time":
        raise UserError(f"the U-Net is not told the size of the image ({SIZES}: {config[SIZES]}): {REFUSED}")
    added = encoders[1].pooled_width + 6 * config["addition_time_embed_dim"]
    check_widths(
        "the pooled prompt and the size make an embedding", added, [config["projection_class_embeddings_input_dim"]]
    )
    encoder = PromptEncoder(encoders, combined, bool(index.get("force_zeros_for_empty_prompt", True)))
    shape = (config["in_channels"], *sides_of(directory, config["sample_size"]))
    return SdxlDpm(unet, load_scheduler(directory, layout), encoder, shape)
