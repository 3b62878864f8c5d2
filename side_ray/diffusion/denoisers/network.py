"""A model around a network of any library: what it outputs, at the times of a noise process, as (ẑ₀, ε̂)."""

from abc import ABC, abstractmethod

import torch

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.dpm import Denoised, shape_of_images
from side_ray.diffusion.noise_process import alpha_bar_at
from side_ray.diffusion.processes import Schedule, VariancePreserving, process_of
from side_ray.diffusion.spaces.codec import Codec


class NetworkDpm(ABC):
    """A network with its noise process, which says what the network outputs.

    Args:
        schedule: the noise process.
        latent_shape: (c, h, w) of what it diffuses; without a codec that is (C, H, W) of the images.
        num_classes: classes of a class-conditional network, else None.
        condition: how often it saw each class; by default all equally often.
    """

    def __init__(
        self,
        schedule: Schedule,
        latent_shape: tuple[int, int, int],
        num_classes: int | None = None,
        condition: Condition | None = None,
    ) -> None:
        self.schedule = schedule
        self.process = process_of(schedule)
        if isinstance(self.process, VariancePreserving):
            self.alphas_cumprod = self.process.alphas_cumprod
        self.num_train_timesteps = self.process.timesteps
        self.latent_shape = latent_shape
        self.num_classes = num_classes
        self.codec: Codec | None = None
        self.condition = condition or (None if num_classes is None else Condition.uniform(num_classes))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return shape_of_images(self.codec, self.latent_shape)

    @abstractmethod
    def output(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None) -> torch.Tensor:
        """What the network predicts, float32 [B, C, H, W], with autograd to its input x [B, C, H, W].

        Args:
            t: [B], the number that tells the network the noise level.
            class_labels: int64 [B] for a class-conditional network, and only for one.
        """

    @torch.no_grad()
    def denoise(self, z_t: torch.Tensor, t: float, class_labels: torch.Tensor | None = None) -> Denoised:
        """(ẑ₀, ε̂), float32 [B, C, H, W], for z_t float32 [B, C, H, W] at one time t of the process, without autograd.

        Raises:
            ValueError: the U-Net is in training mode (dropout), or class labels are missing or unwanted.
        """
        z_t, process = z_t.float(), self.process
        signal, sigma = process.level(t)
        if isinstance(process, VariancePreserving):
            times = torch.full((len(z_t),), int(t), dtype=torch.int64, device=z_t.device)
            if not process.zero_snr:
                eps = self.eps(z_t, times, class_labels)
                return (z_t - sigma * eps) / signal, eps
            return process.leave(self.output(z_t, times, class_labels), z_t, signal, sigma)
        entering, told = process.enter(z_t, t, sigma)
        times = torch.full((len(z_t),), told, dtype=torch.float32, device=z_t.device)
        return process.leave(self.output(entering, times, class_labels), z_t, signal, sigma)

    @torch.no_grad()
    def eps(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """ε̂ float32 [B, C, H, W] for x_t float32 [B, C, H, W] and t int64 [B] in 0 … T−1, without autograd.

        Raises:
            ValueError: as for `denoise`, or the noise process is not variance-preserving.
        """
        return self.differentiable_eps(x_t, t, class_labels)

    def differentiable_eps(
        self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """ε̂ float32 [B, C, H, W] with autograd to x_t [B, C, H, W]; t int64 [B], or float64 [B] in 0 … T−1.

        A fractional t reaches the U-Net as it is: its embedding is made of sinusoids of t.

        Raises:
            ValueError: as for `eps`.
        """
        if not isinstance(self.process, VariancePreserving):
            raise ValueError("eps is for variance-preserving models: use denoise")
        x_t = x_t.float()
        output = self.output(x_t, t, class_labels)
        prediction = self.schedule.config["prediction_type"]
        if prediction == "epsilon":
            return output
        alpha_bar = alpha_bar_at(self.alphas_cumprod, t).to(x_t.device).view(-1, 1, 1, 1)
        signal, sigma = alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()
        if prediction == "v_prediction":
            return signal * output + sigma * x_t
        return (x_t - signal * output) / sigma
