"""What a classifier sees of a model's noisy images: pixels around [−1, 1] of about unit variance, whatever the model diffuses."""

from dataclasses import dataclass

import torch

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.guidance import Guidance
from side_ray.diffusion.noise_process import add_noise
from side_ray.diffusion.processes import NoiseProcess, VariancePreserving, process_of
from side_ray.diffusion.spaces.pixels import PixelCodec


@dataclass(frozen=True)
class View:
    """A classifier's input as a function of z_t: `codec.decode(c·z_t)` with c = 1/√(α_t² + σ_t²).

    For a variance-preserving model of pixels in [−1, 1] that is z_t itself.
    """

    process: NoiseProcess
    codec: PixelCodec | None

    @classmethod
    def of(cls, dpm: Dpm) -> "View":
        return cls(process_of(dpm.schedule), getattr(dpm, "codec", None))

    @property
    def timesteps(self) -> int:
        """T: a classifier is trained on t in 0 … T−1."""
        return self.process.timesteps

    def noised(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The classifier's input for images x0 float32 [B, C, H, W] in [−1, 1] at t int64 [B] with the noise ε."""
        z0 = x0 if self.codec is None else self.codec.encode(x0)
        signal, sigma = (each.view(-1, 1, 1, 1) for each in self.process.levels(t.to(x0.device)))
        return self._input(add_noise(z0, eps, signal, sigma).to(x0.dtype), t)

    def guidance(self, guidance: Guidance) -> Guidance:
        """The guidance by a classifier of this input as a term of the score of z_t: the chain rule."""
        if self.codec is None and isinstance(self.process, VariancePreserving):
            return guidance

        def term(z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            gradient = guidance(self._input(z_t, t), t)
            return gradient * self._factor(z_t, t) * (1 if self.codec is None else self.codec.slope(z_t))

        return term

    def _input(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.process, VariancePreserving):
            z_t = z_t * self._factor(z_t, t)
        return z_t if self.codec is None else self.codec.decode(z_t)

    def _factor(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.process.seen(z_t, t.to(z_t.device))
