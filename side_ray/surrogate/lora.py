"""A LoRA surrogate: the DPM itself, fine-tuned by LoRA (Hu et al. 2021) on its own labelled samples (arXiv 2410.02467v7).

The label enters as an embedding that is added to that of the time. Guidance is ẑ₀ + λ·(ẑ_LoRA(y) − ẑ_θ), where ẑ₀ and ẑ_θ differ
only by classifier-free guidance: as classifier-free guidance it is taken in ẑ₀, which is defined where α = 0.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from side_ray.diffusion.dpm import Dpm
from side_ray.diffusion.files import check_finite, read_json
from side_ray.diffusion.spaces.latents import LatentStatistics
from side_ray.diffusion.unet_dpm import UnetDpm
from side_ray.errors import UserError, first_line

WEIGHTS = "model.safetensors"
CONFIG = "lora.json"
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
"""The parts of a U-Net whose linear and convolutional layers LoRA adapts."""


class LabelledTime(nn.Module):
    """The time embedding of a U-Net plus that of the label of each row, which starts at zero.

    Args:
        inner: the U-Net's own time embedding.
        classes: number of labels.
        width: of the embedding.
    """

    def __init__(self, inner: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.inner, self.labels = inner, nn.Embedding(classes, width)
        nn.init.zeros_(self.labels.weight)
        self.targets = torch.zeros(0, dtype=torch.int64)
        """int64 [B], the labels of the next call."""

    def forward(self, *given: Any) -> Tensor:
        found: Tensor = self.inner(*given)
        return found + self.labels(self.targets.to(found.device))


class LoraNetwork(nn.Module):
    """A copy of a DPM's U-Net with LoRA and an embedding of labels. Only these are trained; untrained it is the DPM.

    The U-Net stays in eval mode, because the DPM is compared with itself: without dropout.

    Args:
        model: the DPM, which stays as it is.
        classes: number of labels.
        rank: of the LoRA matrices.

    Raises:
        UserError: the model is no `UNet2DModel`, or peft is not installed.
    """

    def __init__(self, model: Dpm, classes: int, rank: int) -> None:
        super().__init__()
        if not isinstance(model, UnetDpm):
            raise UserError(
                "lora fine-tunes U-Nets of diffusers (UNet2DModel), and the model is of another kind; use classifier",
                "surrogate.kind",
            )
        peft = require_peft()
        unet = copy.deepcopy(model.unet).requires_grad_(False)
        adapted = [name for name, part in unet.named_modules() if _adapts(name, part)]
        settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=adapted)
        self.unet: Any = peft.inject_adapter_in_model(settings, unet).eval()
        width = self.unet.time_embedding.linear_2.out_features
        self.unet.time_embedding = LabelledTime(self.unet.time_embedding, classes, width).to(model.device)
        self.dpm = copy.copy(model)
        self.dpm.unet = self.unet
        self.classes, self.rank = classes, rank

    def train(self, mode: bool = True) -> "LoraNetwork":
        self.training = mode
        return self

    def label(self, targets: Tensor) -> UnetDpm:
        """The fine-tuned DPM, whose next evaluation is of rows with the labels `targets`, int64 [B]."""
        self.unet.time_embedding.targets = targets
        return self.dpm

    def forward(
        self, z0: Tensor, t: Tensor, eps: Tensor, targets: Tensor, class_labels: Tensor | None = None
    ) -> Tensor:
        """The loss of each row, float32 [B], see `NetworkDpm.losses`."""
        return self.label(targets).losses(z0, t, eps, class_labels)

    def trained(self) -> dict[str, Tensor]:
        """What is trained, by name."""
        return {name: each.detach() for name, each in self.named_parameters() if each.requires_grad}

    def save(self, directory: Path) -> None:
        """Write `model.safetensors`, with what is trained, and `lora.json`."""
        save_file({name: each.cpu().contiguous() for name, each in self.trained().items()}, directory / WEIGHTS)
        (directory / CONFIG).write_text(json.dumps({"classes": self.classes, "rank": self.rank}) + "\n")

    @classmethod
    def load(cls, directory: Path, model: Dpm) -> "LoraNetwork":
        """What `save` wrote, with LoRA merged into the weights: an evaluation then costs what one of the DPM does.

        Raises:
            UserError: a file is absent or damaged, or is for another model.
        """
        config = read_json(directory / CONFIG)
        try:
            network = cls(model, int(config["classes"]), int(config["rank"]))
            weights = load_file(directory / WEIGHTS, device=str(model.device))
            if set(weights) != set(network.trained()):
                raise ValueError("other tensors than those of this model")
            network.load_state_dict(weights, strict=False)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"the LoRA surrogate in {directory} cannot be read ({first_line(error)}): train it again"
            ) from error
        check_finite(weights, directory)
        for part in network.modules():
            if hasattr(part, "merge"):
                part.merge()
        return network.requires_grad_(False)


def require_peft() -> Any:
    """The package peft. Raises UserError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"lora needs the extra text: pip install 'side-ray[text]' ({first_line(error)})", "surrogate.kind"
        ) from error
    return peft


def _adapts(name: str, part: nn.Module) -> bool:
    return name.startswith(BLOCKS) and isinstance(part, (nn.Linear, nn.Conv2d))


@dataclass(frozen=True)
class LoraSurrogate:
    """A LoRA surrogate that guides with one λ, for `draw`.

    Args:
        network: the fine-tuned DPM.
        scale: λ.
        latents: of a latent model's own samples; None for a model of pixels.
    """

    network: LoraNetwork
    scale: float
    latents: LatentStatistics | None = None
    sees_images: bool = False

    @property
    def num_classes(self) -> int:
        return self.network.classes

    def guidance(self, targets: Tensor) -> "LoraGuidance":
        """What guides the rows of a batch to `targets`, int64 [B]."""
        return LoraGuidance(self.network, targets, self.scale)


@dataclass(frozen=True)
class LoraGuidance:
    """λ·(ẑ_LoRA(y) − ẑ_θ), a `ModelGuidance`. One batch at a time: the network keeps the labels of its next evaluation."""

    network: LoraNetwork
    targets: Tensor
    scale: float

    def shift(self, z_t: Tensor, time: float, class_labels: Tensor | None, z0: Tensor) -> Tensor:
        return self.scale * (self.network.label(self.targets).denoise(z_t, time, class_labels)[0] - z0)
