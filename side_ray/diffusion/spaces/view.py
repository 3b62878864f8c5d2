"""What a classifier sees of a model's noisy images: pixels in [−1, 1] and their noise, whatever the model diffuses."""

from dataclasses import dataclass

import torch

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.guidance import Guidance
from side_ray.diffusion.noise_process import noisy
from side_ray.diffusion.spaces.pixels import PixelCodec


@dataclass(frozen=True)
class View:
    """A classifier's input as a function of z_t: `codec.decode(z_t)`, or z_t itself for a model of pixels in [−1, 1].

    Args:
        alphas_cumprod: float64 [T], ᾱ_t of the model's noise schedule.
        codec: that of the model.
    """

    alphas_cumprod: torch.Tensor
    codec: PixelCodec | None

    @classmethod
    def of(cls, dpm: Dpm) -> "View":
        return cls(dpm.alphas_cumprod, getattr(dpm, "codec", None))

    def to(self, device: torch.device | str) -> "View":
        return View(self.alphas_cumprod.to(device), self.codec)

    @property
    def timesteps(self) -> int:
        """T: a classifier is trained on t in 0 … T−1."""
        return len(self.alphas_cumprod)

    def noised(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The classifier's input for images x0 float32 [B, C, H, W] in [−1, 1] at t int64 [B] with the noise ε."""
        if self.codec is None:
            return noisy(x0, t, eps, self.alphas_cumprod)
        return self.codec.decode(noisy(self.codec.encode(x0), t, eps, self.alphas_cumprod))

    def guidance(self, guidance: Guidance) -> Guidance:
        """The guidance by a classifier of this input as a term of the score of z_t."""
        codec = self.codec
        if codec is None:
            return guidance
        return lambda z_t, t: codec.slope(z_t) * guidance(codec.decode(z_t), t)
