"""Text-conditioned models of Stable Diffusion's real classes, scaled down, with random weights."""

import json
import string
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.latents import CHANNELS, SIDE, vae_of

WIDTH, LENGTH = 16, 12
"""Of the embeddings of a prompt."""
PROMPTS = ["a red flower", "blue sky over china", "a flower, a temple and a sky that is longer than the encoder reads"]


def tokenizer_of(directory: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with a vocabulary of single letters."""
    letters = string.ascii_lowercase + string.digits + ",.!"
    names = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(
        str(directory / "vocab.json"), str(directory / "merges.txt"), model_max_length=LENGTH, pad_token="<|endoftext|>"
    )


def encoder_of(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    torch.manual_seed(3)
    size = len(tokenizer)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return CLIPTextModel(config).eval()


def text_unet(**changes) -> UNet2DConditionModel:
    torch.manual_seed(4)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    settings = {"sample_size": SIDE, "in_channels": CHANNELS, "out_channels": CHANNELS, "layers_per_block": 1} | blocks
    settings |= {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4}
    return UNet2DConditionModel(**(settings | {"cross_attention_dim": WIDTH} | changes)).eval()


def text_vae() -> AutoencoderKL:
    vae = vae_of("kl")
    vae.register_to_config(shift_factor=None)  # Stable Diffusion's pipeline knows none
    return vae


def save_text(directory: Path, scheduler=None, **unet) -> StableDiffusionPipeline:
    """Write a `StableDiffusionPipeline`."""
    directory.mkdir(exist_ok=True)
    tokenizer = tokenizer_of(directory)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink()
    pipeline = StableDiffusionPipeline(
        text_vae(),
        encoder_of(tokenizer),
        tokenizer,
        text_unet(**unet),
        scheduler or DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear"),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(directory)
    return pipeline


def save_lora(directory: Path, kind: str = "diffusers", rank: int = 2) -> Path:
    """Write LoRA weights of a `save_text` model's U-Net and text encoder, or of its U-Net in kohya's format."""
    pipeline = save_text(directory / "base")
    torch.manual_seed(5)
    attention = LoraConfig(
        r=rank, lora_alpha=2 * rank, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]
    )
    pipeline.unet.add_adapter(attention)
    unet = get_peft_model_state_dict(pipeline.unet)
    path = directory / f"{kind}-{rank}.safetensors"
    if kind == "kohya":
        named = convert_state_dict_to_kohya(unet)
        save_file({f"lora_unet_{name}": value for name, value in named.items()}, path, {"format": "pt"})
        return path
    pipeline.text_encoder.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    )
    StableDiffusionPipeline.save_lora_weights(
        directory,
        unet_lora_layers=unet,
        text_encoder_lora_layers=get_peft_model_state_dict(pipeline.text_encoder),
        weight_name=path.name,
        unet_lora_adapter_metadata=None,
    )
    return path
