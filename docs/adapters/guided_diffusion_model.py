"""OpenAI's guided-diffusion: dpm.path=guided_diffusion_model.py:load "dpm.files=[ema_0.9999_250000.pt]"."""

from pathlib import Path

import torch
from guided_diffusion.script_util import create_model_and_diffusion, model_and_diffusion_defaults


def load(directory: Path) -> dict:
    settings = model_and_diffusion_defaults() | {
        "image_size": 64,
        "learn_sigma": True,
        "noise_schedule": "cosine",
    }  # as yours
    model, diffusion = create_model_and_diffusion(**settings)
    model.load_state_dict(torch.load(directory / "ema_0.9999_250000.pt", map_location="cpu", weights_only=True))
    return {
        "network": model,  # the channels of its learned variance are left out
        "predicts": "epsilon",
        "alphas_cumprod": diffusion.alphas_cumprod,
        "shape": (3, settings["image_size"], settings["image_size"]),
    }
