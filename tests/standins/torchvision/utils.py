"""Grids of images."""

import torch
from PIL import Image


def save_image(images, path, nrow=8):
    """Write images float32 [N, C, H, W] in [0, 1], `nrow` beside each other."""
    rows = [torch.cat(list(part), dim=2) for part in images.split(nrow) if len(part) == nrow]
    pixels = (torch.cat(rows, dim=1).clamp(0, 1) * 255).byte().cpu()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(path)
