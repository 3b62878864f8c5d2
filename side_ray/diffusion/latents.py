"""What a U-Net's middle block makes of a noisy image: the deepest latent of a DPM."""

from typing import Any

import torch

from side_ray.diffusion.dpm import UnetDpm


@torch.no_grad()
def middle_block(
    dpm: UnetDpm, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None
) -> torch.Tensor:
    """The output of the U-Net's middle block, averaged over its positions. Not for two threads on one U-Net at a time.

    Args:
        dpm: a U-Net; the closed-form DPM has no such block.
        x_t: float32 [B, C, H, W].
        t: int64 [B] in 0 … T−1.
        class_labels: int64 [B] for a class-conditional U-Net.

    Returns:
        float32 [B, channels of the deepest level].
    """
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found.append(output.float().mean(dim=(2, 3)))

    handle = dpm.unet.mid_block.register_forward_hook(keep)
    try:
        dpm.eps(x_t, t, class_labels)
    finally:
        handle.remove()
    return found[0]
