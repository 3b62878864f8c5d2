"""The closed-form optimal DPM: the minimizer of the training loss on a finite set. It memorizes every image.

With training images x_i, `ε*(x_t, t) = (x_t − sqrt(ᾱ_t)·Σᵢ wᵢ xᵢ) / sqrt(1−ᾱ_t)` and
`w = softmax(−‖x_t − sqrt(ᾱ_t)·x_i‖² / (2(1−ᾱ_t)))`: wᵢ is the posterior probability that x_t is a noisy xᵢ. It needs no
training. Given labels, its class posterior is exact too, so tests compare with it exactly.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from side_ray.diffusion.condition import Condition
from side_ray.diffusion.dpm import Denoised, shape_of_images
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.processes import Schedule, VariancePreserving, load_process, process_of
from side_ray.diffusion.spaces.codec import Codec
from side_ray.errors import UserError, first_line

KIND = "optimal"
CHUNK_ELEMENTS = 2**23
"""float64 values of one block of training images, or of its weights: 64 MiB each."""


class OptimalDpm:
    """The DPM that minimizes the training loss exactly on `images`.

    It computes in float64, because near t = 0 the exponent is a squared distance divided by 2e-4, and block by block over
    the training images, so that memory does not grow with their number. Results have the dtype of `x_t`.

    Args:
        images: float32 [N, C, H, W] in [−1, 1], or what `codec` makes of them, N ≥ 1.
        schedule: the noise process.
    """

    num_classes: int | None = None
    condition: Condition | None = None
    codec: Codec | None = None

    def __init__(self, images: torch.Tensor, schedule: Schedule) -> None:
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(f"images must be [N, C, H, W] with N ≥ 1, got {tuple(images.shape)}")
        self.images = images.float().contiguous()
        self.schedule = schedule
        self.process = process_of(schedule)
        if isinstance(self.process, VariancePreserving):
            self.alphas_cumprod = self.process.alphas_cumprod
        self.num_train_timesteps = self.process.timesteps
        channels, height, width = images.shape[1:]
        self.latent_shape = (channels, height, width)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return shape_of_images(self.codec, self.latent_shape)

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> "OptimalDpm":
        """Move the training images; returns itself."""
        self.images = self.images.to(device)
        return self

    def denoise(self, z_t: torch.Tensor, t: float, class_labels: torch.Tensor | None = None) -> Denoised:
        """(ẑ₀, ε̂) at one time t, shape and dtype of `z_t` [B, C, H, W]. Raises what `eps` does."""
        whole = isinstance(self.process, VariancePreserving)
        times = torch.full((len(z_t),), t, dtype=torch.int64 if whole else torch.float64, device=z_t.device)
        signal, sigma = self.process.level(t)
        if not whole or signal == 0:
            _, mean = self.posterior(z_t, times)
            return mean.to(z_t.dtype), ((z_t.double() - signal * mean) / sigma).to(z_t.dtype)
        eps = self.eps(z_t, times, class_labels)
        return (z_t - sigma * eps) / signal, eps

    def eps(self, x_t: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """ε*(x_t, t), shape and dtype of `x_t` [B, C, H, W]; t int64 [B], or float64 [B] in 0 … T−1.

        Raises:
            ValueError: class labels are given; the closed form has no class condition.
        """
        if class_labels is not None:
            raise ValueError("the closed-form DPM takes no class labels")
        signal, sigma = self._levels(t)
        _, mean = self.posterior(x_t, t)
        eps = (x_t.double() - signal[:, None, None, None] * mean) / sigma[:, None, None, None]
        return eps.to(x_t.dtype)

    differentiable_eps = eps

    def log_density(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """log p_t(x_t) of the noised training set, float64 [B], in nats: a mixture of N Gaussians of variance 1−ᾱ_t."""
        evidence, _ = self.posterior(x_t, t)
        _, sigma = self._levels(t)
        dimension = math.prod(self.latent_shape)
        return evidence - math.log(len(self.images)) - 0.5 * dimension * torch.log(2 * math.pi * sigma**2)

    def posterior(
        self,
        x_t: torch.Tensor,
        t: torch.Tensor,
        labels: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The evidence and the posterior mean of x₀, by a softmax that is accumulated over blocks of training images.

        Args:
            x_t: [B, C, H, W].
            t: int64 [B].
            labels: int64 [N], with `targets`: row b then counts only the training images labelled targets[b].
            targets: int64 [B], each of them among `labels`.

        Returns:
            log Σᵢ exp(−‖x_t − sqrt(ᾱ_t)·x_i‖² / (2(1−ᾱ_t))), float64 [B], and Σᵢ wᵢ xᵢ, float64 [B, C, H, W].
        """
        top = torch.full((len(x_t),), -math.inf, dtype=torch.float64, device=x_t.device)
        total = torch.zeros_like(top)
        mean = torch.zeros(len(x_t), math.prod(self.latent_shape), dtype=torch.float64, device=x_t.device)
        for block, logits in self.blocks(x_t, t):
            if labels is not None and targets is not None:
                logits = logits.masked_fill(labels[block][None, :] != targets[:, None], -math.inf)
            higher = torch.maximum(top, logits.max(dim=1).values)
            shift = higher.masked_fill(higher.isinf(), 0.0)
            weights, carry = torch.exp(logits - shift[:, None]), torch.exp(top - shift)
            total = carry * total + weights.sum(dim=1)
            mean = carry[:, None] * mean + weights @ self.images[block].flatten(1).double()
            top = higher
        return top + torch.log(total), (mean / total[:, None]).reshape(x_t.shape)

    def blocks(self, x_t: torch.Tensor, t: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield (slice of training images, −‖x_t − sqrt(ᾱ_t)·x_i‖² / (2(1−ᾱ_t)) float64 [B, block])."""
        signal, sigma = self._levels(t)
        x = x_t.flatten(1).double()
        size = max(1, CHUNK_ELEMENTS // max(x.shape))
        for start in range(0, len(self.images), size):
            block = slice(start, start + size)
            y = self.images[block].flatten(1).double()
            squares = (x**2).sum(1)[:, None] - 2 * signal[:, None] * (x @ y.T) + (signal**2)[:, None] * (y**2).sum(1)
            yield block, -squares / (2 * sigma**2)[:, None]

    def save(self, directory: Path) -> None:
        """Write `images.safetensors`, `config.json` and `scheduler/scheduler_config.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        save_file({"images": self.images.cpu()}, directory / "images.safetensors")
        self.process.save(directory / "scheduler")
        (directory / "config.json").write_text(json.dumps({"kind": KIND, "images": len(self.images)}) + "\n")

    @classmethod
    def load(cls, directory: Path, device: torch.device | str = "cpu") -> "OptimalDpm":
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or broken.
        """
        schedule = load_process(directory / "scheduler")
        expected = read_json(directory / "config.json").get("images")
        path = directory / "images.safetensors"
        try:
            images = load_file(path, device=str(device))["images"]
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path} holds no training images: {first_line(error)}") from error
        if images.ndim != 4 or len(images) != expected:
            raise UserError(f"{path} has images of shape {tuple(images.shape)}, config.json says {expected} images")
        check_finite({"images": images}, path)
        return cls(images, schedule)

    def _levels(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α_t and σ_t, float64 [B]; √ᾱ_t and √(1−ᾱ_t) where the process is variance-preserving."""
        return self.process.levels(t)


class ExactPosterior:
    """p_t(y|x_t) of the closed-form DPM, given its images' labels. Called like a classifier, and differentiable.

    Args:
        dpm: the closed-form DPM.
        labels: int64 [N] in 0 … K−1, every class present.

    Raises:
        ValueError: not one label per training image, or a class without images.
    """

    def __init__(self, dpm: OptimalDpm, labels: torch.Tensor) -> None:
        if labels.shape != (len(dpm.images),):
            raise ValueError(f"one label per training image: {len(dpm.images)}, got {tuple(labels.shape)}")
        if not bool((torch.bincount(labels) > 0).all()):
            raise ValueError("every class in 0 … K−1 needs at least one training image")
        self.dpm = dpm
        self.labels = labels.to(dpm.device)
        self.num_classes = int(labels.max()) + 1

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """log p_t(y|x_t), [B, K], dtype of `x_t` [B, C, H, W]; t int64 [B]. Logits whose softmax is itself."""
        parts: list[list[torch.Tensor]] = [[] for _ in range(self.num_classes)]
        for block, logits in self.dpm.blocks(x_t, t):
            labels = self.labels[block]
            for label in labels.unique().tolist():
                parts[label].append(logits[:, labels == label].logsumexp(dim=1))
        evidence = torch.stack([torch.stack(part).logsumexp(dim=0) for part in parts], dim=1)
        return evidence.log_softmax(dim=1).to(x_t.dtype)

    def guidance(self, targets: torch.Tensor, scale: torch.Tensor) -> "ExactGuidance":
        """The analytic gradient of λ·log p_t(y|x_t), for the sampler. targets int64 [B], scale float32 [B]."""
        return ExactGuidance(self, targets, scale)


class ExactGuidance:
    """λ·∇ₓ log p_t(y|x_t) = λ·sqrt(ᾱ_t)/(1−ᾱ_t)·(E[x₀|x_t, y] − E[x₀|x_t]), without automatic differentiation.

    At λ = 1 the guided ε̂ is that of the closed-form DPM of the target's images alone.

    Args:
        posterior: the class posterior of a closed-form DPM.
        targets: int64 [B] in 0 … K−1.
        scale: float32 [B], λ of each row.

    Raises:
        ValueError: a target is no class of the posterior.
    """

    def __init__(self, posterior: ExactPosterior, targets: torch.Tensor, scale: torch.Tensor) -> None:
        if not bool(((targets >= 0) & (targets < posterior.num_classes)).all()):
            raise ValueError(f"targets must be in 0 … {posterior.num_classes - 1}")
        self.posterior = posterior
        self.targets = targets.to(posterior.labels.device)
        self.scale = scale.double().to(posterior.labels.device)

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The guidance term, shape and dtype of `x_t` [B, C, H, W]; t int64 [B]."""
        dpm = self.posterior.dpm
        signal, sigma = dpm._levels(t)
        _, conditional = dpm.posterior(x_t, t, self.posterior.labels, self.targets)
        _, mean = dpm.posterior(x_t, t)
        factor = self.scale * signal / sigma**2
        return (factor[:, None, None, None] * (conditional - mean)).to(x_t.dtype)
