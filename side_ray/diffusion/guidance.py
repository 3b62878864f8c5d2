"""Classifier guidance: a classifier of noisy images as a term of the score (Eq. 11 and 12)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch.nn import functional

from side_ray.diffusion.spaces.latents import LatentStatistics

Guidance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t float32 [B, C, H, W], t int64 [B]) → λ·∇ₓ log p_t(y|x_t), float32 [B, C, H, W]."""


@runtime_checkable
class ModelGuidance(Protocol):
    """Guidance by another diffusion model of the same noise process, taken in ẑ₀."""

    def shift(
        self, z_t: torch.Tensor, time: float, class_labels: torch.Tensor | None, z0: torch.Tensor
    ) -> torch.Tensor:
        """What is added to ẑ₀, float32 [B, C, H, W].

        Args:
            z_t: float32 [B, C, H, W] at one time of the process.
            class_labels: the model's own condition, as of `Dpm.denoise`.
            z0: the model's own ẑ₀, float32 [B, C, H, W], without classifier-free guidance.
        """
        ...


@dataclass(frozen=True)
class ClassifierSurrogate:
    """A classifier of noisy images that guides with one λ, for `draw`.

    Args:
        classifier: as for `ClassifierGuidance`.
        num_classes: K, its classes.
        scale: λ.
        latents: of a latent model's own samples; None for a model of pixels.
        sees_images: whether it is a classifier of images where the model is a latent one.
    """

    classifier: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    num_classes: int
    scale: float
    latents: LatentStatistics | None = None
    sees_images: bool = False

    def guidance(self, targets: torch.Tensor) -> "ClassifierGuidance":
        """The guidance term of a batch whose rows are guided to `targets`, int64 [B]."""
        scale = torch.full((len(targets),), self.scale, device=targets.device)
        return ClassifierGuidance(self.classifier, targets, scale)


class ClassifierGuidance:
    """λ·∇ₓ log p_t(y|x_t) by automatic differentiation of a classifier.

    p_t(y|x_t) is the softmax of the classifier's logits. The gradient is that of +log p: it points to where the target
    is more likely. (Algorithm 1 writes the gradient of the cross-entropy, which is −log p.)

    Args:
        classifier: (x_t float32 [B, C, H, W], t int64 [B]) → logits [B, K]. A module must be in eval mode, its BatchNorm
            layers included: with batch statistics each row's gradient would depend on the other rows.
        targets: int64 [B] in 0 … K−1, the class that each row is drawn to.
        scale: float32 [B], λ of each row. Rows of λ = 0 come out as exact zeros.

    Raises:
        ValueError: the classifier is (partly) in training mode, or `targets` and `scale` differ in length.
    """

    def __init__(
        self,
        classifier: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        targets: torch.Tensor,
        scale: torch.Tensor,
    ) -> None:
        if targets.shape != scale.shape or targets.ndim != 1:
            raise ValueError(f"one target and one λ per row, got {tuple(targets.shape)} and {tuple(scale.shape)}")
        self.classifier = classifier
        self.targets = targets.long()
        self.scale = scale.float()
        self._largest = int(targets.max()) if len(targets) else -1
        self._require_eval()

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The guidance term for a batch, float32 [B, C, H, W], detached.

        Raises:
            ValueError: the classifier is (partly) in training mode, or a target is no class of it.
        """
        self._require_eval()
        with torch.enable_grad(), torch.autocast(x_t.device.type, enabled=False):
            x = x_t.detach().float().requires_grad_(True)
            logits = self.classifier(x, t)
            if self._largest >= logits.shape[1]:
                raise ValueError(f"target {self._largest}, but the classifier has {logits.shape[1]} classes")
            log_p = functional.log_softmax(logits.float(), dim=1)
            chosen = log_p.gather(1, self.targets.to(x.device)[:, None])
            (gradient,) = torch.autograd.grad(chosen.sum(), x)
        return self.scale.to(x.device)[:, None, None, None] * gradient

    def _require_eval(self) -> None:
        if isinstance(self.classifier, torch.nn.Module) and any(m.training for m in self.classifier.modules()):
            raise ValueError("the guiding classifier is in training mode, where BatchNorm mixes rows: call .eval()")
