"""Text-conditioned models of the real classes, scaled down, with random weights."""

import json
import string
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.latents import CHANNELS, SIDE, vae_of

WIDTH, LENGTH = 16, 12
"""Of the embeddings of a prompt."""
POOLED = 10
"""Numbers that an encoder with projection pools a prompt to."""
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


def clip_tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory() as directory:
        return tokenizer_of(Path(directory))


def encoder_of(tokenizer: CLIPTokenizer, width: int = WIDTH, projected: bool = False):
    """A `CLIPTextModel`, or a `CLIPTextModelWithProjection`."""
    torch.manual_seed(3)
    size = len(tokenizer)
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        projection_dim=POOLED,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_tokenizer() -> T5Tokenizer:
    """T5's tokenizer with a vocabulary of single letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5Tokenizer([*special, *((each, -3.0) for each in string.ascii_letters + ",.")], extra_ids=0)


def t5_encoder(width: int) -> T5EncoderModel:
    torch.manual_seed(6)
    settings = {"vocab_size": 64, "d_model": width, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    return T5EncoderModel(T5Config(**settings, feed_forward_proj="gated-gelu")).eval()


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
    tokenizer = clip_tokenizer()
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


def saved_as(pipeline: DiffusionPipeline, directory: Path) -> DiffusionPipeline:
    pipeline.save_pretrained(directory)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_sdxl(directory: Path, zeros: bool = True, **unet) -> StableDiffusionXLPipeline:
    """Write a `StableDiffusionXLPipeline`."""
    tokenizer = clip_tokenizer()
    settings = {"cross_attention_dim": WIDTH + 24, "addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    settings |= {"projection_class_embeddings_input_dim": 6 * 4 + POOLED}
    return saved_as(
        StableDiffusionXLPipeline(
            text_vae(),
            encoder_of(tokenizer),
            encoder_of(tokenizer, 24, projected=True),
            tokenizer,
            tokenizer,
            text_unet(**settings | unet),
            DDIMScheduler(clip_sample=False, beta_schedule="scaled_linear"),
            force_zeros_for_empty_prompt=zeros,
            add_watermarker=False,
        ),
        directory,
    )


def save_sd3(directory: Path, t5: bool = True, scheduler=None, **transformer) -> StableDiffusion3Pipeline:
    """Write a `StableDiffusion3Pipeline`, with T5 or without."""
    torch.manual_seed(7)
    tokenizer, width = clip_tokenizer(), WIDTH + 24 + 8
    settings = {
        "sample_size": SIDE,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_layers": 2,
        "qk_norm": "rms_norm",
    }
    settings |= {
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "pos_embed_max_size": 8,
    }
    settings |= {"joint_attention_dim": width, "pooled_projection_dim": 2 * POOLED}
    return saved_as(
        StableDiffusion3Pipeline(
            SD3Transformer2DModel(**settings | transformer).eval(),
            scheduler or FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae_of("kl"),
            encoder_of(tokenizer, projected=True),
            tokenizer,
            encoder_of(tokenizer, 24, projected=True),
            tokenizer,
            t5_encoder(width) if t5 else None,
            t5_tokenizer() if t5 else None,
        ),
        directory,
    )


def save_flux(directory: Path, guidance: bool = True, scheduler=None, **transformer) -> FluxPipeline:
    """Write a `FluxPipeline`, with an embedded guidance scale or without."""
    torch.manual_seed(8)
    settings = {"in_channels": 4 * CHANNELS, "num_layers": 1, "num_single_layers": 1, "guidance_embeds": guidance}
    settings |= {"attention_head_dim": 8, "num_attention_heads": 2, "axes_dims_rope": (2, 2, 4)}
    settings |= {"joint_attention_dim": 24, "pooled_projection_dim": WIDTH}
    tokenizer = clip_tokenizer()
    return saved_as(
        FluxPipeline(
            scheduler
            or FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=2, max_image_seq_len=64),
            vae_of("kl"),
            encoder_of(tokenizer),
            tokenizer,
            t5_encoder(24),
            t5_tokenizer(),
            FluxTransformer2DModel(**settings | transformer).eval(),
        ),
        directory,
    )


def save_pixart(
    directory: Path, kind: type[PixArtAlphaPipeline | PixArtSigmaPipeline] = PixArtAlphaPipeline, **transformer
) -> DiffusionPipeline:
    """Write a PixArt pipeline."""
    torch.manual_seed(9)
    settings = {"sample_size": SIDE, "in_channels": CHANNELS, "out_channels": 2 * CHANNELS, "num_layers": 2}
    settings |= {"attention_head_dim": 8, "num_attention_heads": 2, "cross_attention_dim": 16, "caption_channels": 24}
    return saved_as(
        kind(
            t5_tokenizer(),
            t5_encoder(24),
            text_vae(),
            PixArtTransformer2DModel(**settings | transformer).eval(),
            DDIMScheduler(clip_sample=False),
        ),
        directory,
    )


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


def save_lora_of(pipeline: DiffusionPipeline, directory: Path) -> Path:
    """Write LoRA weights of the network of a pipeline, which has them afterwards too, at weight 1."""
    part = "unet" if "unet" in pipeline.components else "transformer"
    torch.manual_seed(5)
    settings = {"init_lora_weights": False, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"]}
    getattr(pipeline, part).add_adapter(LoraConfig(r=2, lora_alpha=2, **settings))
    layers = get_peft_model_state_dict(getattr(pipeline, part))
    pipeline.save_lora_weights(directory, **{f"{part}_lora_layers": layers}, weight_name="lora.safetensors")
    return directory / "lora.safetensors"
