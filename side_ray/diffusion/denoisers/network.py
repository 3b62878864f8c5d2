"""A model around a network of any library: what it outputs, at the times of a noise process, as (ẑ₀, ε̂)."""

from abc import ABC, abstractmethod

import torch

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.dpm import Denoised, shape_of_images
from side_ray.diffusion.noise_process import add_noise, alpha_bar_at
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

    def losses(
        self, z0: torch.Tensor, t: torch.Tensor, eps: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The squared error of what the network outputs, mean over the values of each row, float32 [B], with autograd to its
        weights. For a network that outputs ε this is |ε̂ − ε|².

        ẑ₀ is linear in the output, so the error is that of ẑ₀ over the factor.

        Args:
            z0: float32 [B, C, H, W], what it diffuses.
            t: int64 [B] in 0 … T−1.
            eps: the noise, float32 [B, C, H, W].
            class_labels: as for `denoise`.
        """
        process = self.process
        levels = [each.float().to(z0.device).view(-1, 1, 1, 1) for each in process.levels(t.to(z0.device))]
        z_t = add_noise(z0, eps, *levels)
        zero, one = torch.zeros_like(z0), torch.ones_like(z0)
        if isinstance(process, VariancePreserving):
            output = self.output(z_t, t, class_labels)
            off, factor = (process.leave(*pair, *levels)[0] for pair in ((output, z_t), (one, zero)))
            return (((off - z0) / factor) ** 2).flatten(1).mean(1)
        told = list(zip(t.tolist(), levels[0].flatten().tolist(), levels[1].flatten().tolist(), strict=True))
        entered = [process.enter(z_t[i : i + 1], time, sigma) for i, (time, _, sigma) in enumerate(told)]
        times = torch.tensor([each for _, each in entered], dtype=torch.float32, device=z0.device)
        output = self.output(torch.cat([each for each, _ in entered]), times, class_labels)

        def clean(of: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
            return torch.cat([process.leave(of[i : i + 1], at[i : i + 1], *each[1:])[0] for i, each in enumerate(told)])

        return (((clean(output, z_t) - z0) / clean(one, zero)) ** 2).flatten(1).mean(1)

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
