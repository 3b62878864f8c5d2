"""What a classifier sees of a model's noisy images, of about unit variance, whatever the model diffuses."""

from dataclasses import dataclass

import torch

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.guidance import Guidance
from side_ray.diffusion.noise_process import add_noise
from side_ray.diffusion.processes import NoiseProcess, VariancePreserving, process_of
from side_ray.diffusion.spaces.codec import Codec
from side_ray.diffusion.spaces.latents import LatentStatistics


@dataclass(frozen=True)
class View:
    """Images: a classifier's input as a function of z_t is `codec.decode(c·z_t)` with c = 1/√(α_t² + σ_t²).

    For a variance-preserving model of pixels in [−1, 1] that is z_t itself. For a latent model it is what its decoder makes of
    noisy latents, and the gradient goes through the decoder: for classifiers of images, such as OL-TI.
    """

    process: NoiseProcess
    codec: Codec | None

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
            factor = self._factor(z_t, t)
            gradient = guidance(self._input(z_t, t), t) * factor
            return gradient if self.codec is None else self.codec.pulled_back(z_t * factor, gradient)

        return term

    def _input(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.process, VariancePreserving):
            z_t = z_t * self._factor(z_t, t)
        return z_t if self.codec is None else self.codec.decode(z_t)

    def _factor(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.process.seen(z_t, t.to(z_t.device))


@dataclass(frozen=True)
class LatentView:
    """Latents: a classifier's input as a function of z_t is (z_t − α_t·m) / √(α_t²·s² + σ_t²), with the mean m and the standard
    deviation s of each channel: z_t in unit variance."""

    process: NoiseProcess
    latents: LatentStatistics

    @property
    def timesteps(self) -> int:
        """T: a classifier is trained on t in 0 … T−1."""
        return self.process.timesteps

    def noised(self, x0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """The classifier's input for z_0 = x0 float32 [B, c, h, w] at t int64 [B] with the noise ε."""
        signal, sigma = self._levels(x0, t)
        return self._input(add_noise(x0, eps, signal, sigma), t)

    def guidance(self, guidance: Guidance) -> Guidance:
        """The guidance by a classifier of this input as a term of the score of z_t: the chain rule."""
        return lambda z_t, t: guidance(self._input(z_t, t), t) * self._factor(z_t, t)

    def _input(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, _ = self._levels(z_t, t)
        return (z_t - signal * self.latents.column("mean", z_t)) * self._factor(z_t, t)

    def _factor(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, sigma = self._levels(z_t, t)
        return ((signal * self.latents.column("std", z_t)) ** 2 + sigma**2).rsqrt()

    def _levels(self, like: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        signal, sigma = (each.to(like).view(-1, 1, 1, 1) for each in self.process.levels(t.to(like.device)))
        return signal, sigma
