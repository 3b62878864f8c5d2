"""lucidrains' denoising-diffusion-pytorch: dpm.path=lucidrains.py:load "dpm.files=[model-10.pt]", of its `Trainer.save`."""

from pathlib import Path

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Unet

PREDICTS = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}


def load(directory: Path) -> dict:
    unet = Unet(dim=64, dim_mults=(1, 2, 4, 8), channels=3)  # as in your training
    diffusion = GaussianDiffusion(unet, image_size=32)
    saved = torch.load(directory / "model-10.pt", map_location="cpu", weights_only=True)["ema"]
    diffusion.load_state_dict({k.removeprefix("ema_model."): v for k, v in saved.items() if k.startswith("ema_model.")})
    return {
        "network": diffusion.model,
        "predicts": PREDICTS[diffusion.objective],
        "alphas_cumprod": diffusion.alphas_cumprod,
        "shape": (diffusion.channels, *diffusion.image_size),
    }
