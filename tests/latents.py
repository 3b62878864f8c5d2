"""Latent models of diffusers' real classes, scaled down, with random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)

CHANNELS, SIDE, FACTOR = 4, 4, 4
SHAPE = (CHANNELS, SIDE, SIDE)
"""Of the latents."""
CLASSES = 5
"""Of the DiT, without its null class."""
_BLOCKS = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "norm_num_groups": 4,
    "latent_channels": CHANNELS,
}


def vae_of(kind: str = "kl", image_channels: int = 3):
    """A VAE of random weights that makes images four times as large as its latents."""
    torch.manual_seed(0)
    ends = {"in_channels": image_channels, "out_channels": image_channels}
    if kind == "kl":
        return AutoencoderKL(**ends, **_BLOCKS, scaling_factor=0.7, shift_factor=0.2).eval()
    if kind == "vq":
        return VQModel(**ends, **_BLOCKS, num_vq_embeddings=64, scaling_factor=0.9).eval()
    blocks = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    depths = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    return AutoencoderTiny(**ends, **blocks, **depths, latent_channels=CHANNELS).eval()


def latent_unet(**changes) -> UNet2DModel:
    torch.manual_seed(1)
    shape = {"sample_size": SIDE, "in_channels": CHANNELS, "out_channels": CHANNELS}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    settings = shape | blocks | {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return UNet2DModel(**(settings | changes)).eval()


def save_ldm(directory: Path, vae: str = "kl", scheduler=None) -> LDMPipeline:
    """Write an `LDMPipeline`; its VAE is in `vqvae/`."""
    scheduler = scheduler or DDIMScheduler(clip_sample=False)
    pipeline = LDMPipeline(vae_of(vae), latent_unet(), scheduler)
    pipeline.save_pretrained(directory)
    return pipeline


def save_dit(directory: Path, learned: bool = True, scheduler=None) -> DiTPipeline:
    """Write a `DiTPipeline`, with learned variances or without."""
    torch.manual_seed(2)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS * (2 if learned else 1),
        num_layers=2,
        sample_size=SIDE,
        num_embeds_ada_norm=CLASSES,
        norm_num_groups=4,
    ).eval()
    names = {number: f"class {number}" for number in range(CLASSES)}
    scheduler = scheduler or DDIMScheduler(clip_sample=False)
    pipeline = DiTPipeline(transformer, vae_of("kl"), scheduler, id2label=names)
    pipeline.save_pretrained(directory)
    return pipeline


def trained_vae(images: torch.Tensor, steps: int, channels: int = 2) -> AutoencoderTiny:
    """A small VAE trained on images [N, C, H, W] in [−1, 1], which makes latents of half their size."""
    torch.manual_seed(0)
    ends = {"in_channels": images.shape[1], "out_channels": images.shape[1], "latent_channels": channels}
    blocks = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    vae = AutoencoderTiny(**ends, **blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x = images[torch.randint(len(images), (32,), generator=generator)]
        loss = torch.nn.functional.mse_loss(vae.decode(vae.encode(x).latents).sample, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vae.eval()
