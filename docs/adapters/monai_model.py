"""MONAI's `DiffusionModelUNet`: dpm.path=monai_model.py:load "dpm.files=[unet.pt]", its state dict."""

from pathlib import Path

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler


def load(directory: Path) -> dict:
    unet = DiffusionModelUNet(  # as in your training
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(32, 64),
        attention_levels=(False, True),
        num_res_blocks=2,
        num_head_channels=32,
    )
    unet.load_state_dict(torch.load(directory / "unet.pt", map_location="cpu", weights_only=True))
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    return {
        "network": unet,
        "predicts": "epsilon",
        "alphas_cumprod": scheduler.alphas_cumprod,
        "shape": (1, 64, 64),
        "pixel_range": (0, 1),  # ScaleIntensity's range
    }
