"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer of latents and prompts together, sampled by flow matching."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch.nn import functional

from side_ray.diffusion.condition.prompts import Encoded, PromptEncoder, packed, unpacked
from side_ray.diffusion.denoisers.layout import ENCODER, INDEX, TRANSFORMER, Layout, names_in
from side_ray.diffusion.files import read_json
from side_ray.diffusion.networks.loading import check_index, check_table, load_flow, load_network, require_vae
from side_ray.diffusion.networks.text.base import TextDpm, check_widths, sides_of
from side_ray.diffusion.networks.text.encoders import CLIP_PROJECTED, T5, load_encoder, parts_in_index
from side_ray.errors import UserError

ENCODERS = {"": CLIP_PROJECTED, "_2": CLIP_PROJECTED}
T5_SUFFIX, T5_TOKENS = "_3", 256
TABLE = {"pos_embed_max_size": 96, "num_attention_heads": 18, "attention_head_dim": 64}
"""Defaults of the settings that its table of positions is made of."""


class Sd3Dpm(TextDpm):
    """An `SD3Transformer2DModel`.

    Its condition is the states of both CLIP encoders side by side, padded with zeros to the width of T5's, which follow, and what
    the CLIP encoders pool. Without T5 zeros take its place.
    """

    def pipeline(self) -> Any:
        from diffusers import StableDiffusion3Pipeline

        parts: list[Any] = [each for part in self.encoder.parts for each in (part.network, part.tokenizer)]
        return StableDiffusion3Pipeline(
            self.network, FlowMatchEulerDiscreteScheduler(), None, *parts, *[None] * (6 - len(parts))
        )

    def predicted(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        states, pooled = unpacked(condition, sum(each.pooled_width for each in self.encoder.parts[:2]))
        found: torch.Tensor = self.network(
            x, encoder_hidden_states=states, pooled_projections=pooled, timestep=t, return_dict=False
        )[0]
        return found


def combined(encoded: Sequence[Encoded], width: int) -> torch.Tensor:
    """The condition of a prompt, float32 [1, L + T5_TOKENS + rows, width]."""
    first, second, *third = encoded
    assert first.pooled is not None
    assert second.pooled is not None
    clip = torch.cat([first.states, second.states], dim=2)
    clip = functional.pad(clip, (0, width - clip.shape[2]))
    t5 = third[0].states if third else clip.new_zeros(1, T5_TOKENS, width)
    return packed(torch.cat([clip, t5], dim=1), first.pooled, second.pooled)


def load_sd3(directory: Path) -> Sd3Dpm:
    """Open the directory of a `StableDiffusion3Pipeline`, with or without `model_index.json`, and with or without T5.

    Raises:
        UserError: a file is missing or damaged, or the pipeline has other components.
    """
    with_t5 = (directory / f"{ENCODER}{T5_SUFFIX}").is_dir()
    if (directory / INDEX).exists():
        t5: dict[str, Any] = parts_in_index({T5_SUFFIX: T5})
        if not with_t5:
            if read_json(directory / INDEX).get(f"{ENCODER}{T5_SUFFIX}", [None])[0] is not None:
                raise UserError(
                    f"{directory / INDEX} names {ENCODER}{T5_SUFFIX}, which is missing; give it, or [null, null] in its place to "
                    "leave T5 out"
                )
            t5 = {name: [None, *known] for name, known in t5.items()}
        check_index(directory / INDEX, TRANSFORMER, ("SD3Transformer2DModel",), {**parts_in_index(ENCODERS), **t5})
    require_vae(directory)
    layout, path = Layout.of(names_in(directory), networks=(TRANSFORMER,)), directory / TRANSFORMER
    check_table(path / "config.json", "Stable Diffusion 3", TABLE)
    transformer = load_network(path, "transformer", (SD3Transformer2DModel,), layout.variant)
    config = transformer.config
    if transformer.out_channels != config["in_channels"]:
        raise UserError(
            f"a transformer from {config['in_channels']} to {transformer.out_channels} channels takes more than noise"
        )
    patch, width = config["patch_size"], config["joint_attention_dim"]
    height, breadth = sides_of(directory, config["sample_size"], patch)
    if max(height, breadth) // patch > config["pos_embed_max_size"]:
        raise UserError(f"this model makes images of at most {config['pos_embed_max_size']} patches along a side")
    encoders = [load_encoder(directory, suffix, kind, penultimate=True) for suffix, kind in ENCODERS.items()]
    encoders[1].length = encoders[0].length  # as the pipeline does
    pooled, wide = (sum(each) for each in zip(*((one.pooled_width, one.width) for one in encoders), strict=True))
    check_widths("the text encoders pool a prompt to an embedding", pooled, [config["pooled_projection_dim"]])
    if wide > width:
        raise UserError(
            f"the CLIP encoders make embeddings of {wide} numbers, the network takes {width}; they do not belong together"
        )
    if with_t5:
        encoders.append(load_encoder(directory, T5_SUFFIX, T5, length=T5_TOKENS))
        check_widths("T5 makes embeddings", encoders[2].width, [width])
    schedule = load_flow(directory, layout, (height // patch) * (breadth // patch))
    encoder = PromptEncoder(encoders, partial(combined, width=width))
    return Sd3Dpm(transformer, schedule, encoder, (config["in_channels"], height, breadth))
