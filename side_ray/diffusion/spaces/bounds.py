"""What keeps x̂₀ in range: the model's own clipping, as its scheduler's config says, and the guided x̂₀ in any case."""

from dataclasses import dataclass
from typing import Any

import torch

from side_ray.diffusion.spaces.codec import Codec
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.diffusion.spaces.pixels import PixelCodec


@dataclass(frozen=True)
class Bounds:
    """Where x̂₀ is held.

    Args:
        codec: that of the model; None = pixels in [−1, 1].
        clip: x̂₀ is clamped to ± `clip` (diffusers' `clip_sample_range`), or to the range of the codec's pixels. None
            (`clip_sample: false`): the unguided x̂₀ is left as it is, and the guided one may leave the range of pixels, or of a
            latent model's latents, only where that does.
        threshold: dynamic thresholding in place of `clip` (Saharia et al. 2022): the quantile of each image's |x̂₀|, at least 1
            and at most the second number, becomes 1.
        latents: of a latent model's own samples, whose range it is; without them a guided ẑ₀ is not held.
    """

    codec: Codec | None = None
    clip: float | None = 1.0
    threshold: tuple[float, float] | None = None
    latents: LatentStatistics | None = None

    @classmethod
    def of(cls, schedule: Any, codec: Codec | None, latents: LatentStatistics | None = None) -> "Bounds":
        """Those of a model with a diffusers scheduler."""
        config = schedule.config
        threshold = None
        if config.get("thresholding"):
            threshold = config["dynamic_thresholding_ratio"], config["sample_max_value"]
        clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", True) else None
        return cls(codec, clip, threshold, latents)

    def __call__(self, x0: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """x̂₀ float32 [B, C, H, W] within the bounds.

        Args:
            plain: the unguided x̂₀; x0 itself if it is unguided.
        """
        if self.threshold is not None:
            ratio, most = self.threshold
            size = torch.quantile(x0.abs().flatten(1).float(), ratio, dim=1).clamp(1, most).view(-1, 1, 1, 1)
            return x0.clamp(-size, size) / size
        if self.clip is not None:
            if isinstance(self.codec, PixelCodec):
                return self.codec.clamp(x0)
            return x0.clamp(-self.clip, self.clip)
        if plain is x0 or (self._latent and self.latents is None):
            return x0
        low, high = self._edges(x0)
        return x0.clamp(torch.minimum(low, plain), torch.maximum(high, plain))

    @property
    def _latent(self) -> bool:
        return self.codec is not None and self.codec.latent

    def _edges(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The range of z₀, broadcasting to `like` [B, C, H, W]."""
        if self.latents is not None:
            return self.latents.column("low", like), self.latents.column("high", like)
        edges = [torch.full_like(like, value) for value in (-1.0, 1.0)]
        black, white = edges if self.codec is None else map(self.codec.encode, edges)
        return torch.minimum(black, white), torch.maximum(black, white)
