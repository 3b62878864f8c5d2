"""Networks that label the DPM's images: a classifier of clean images, or an encoder whose features are clustered."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from side_ray.diffusion.files import check_finite
from side_ray.errors import UserError, first_line, naming
from side_ray.similarity.encoder import IMAGENET, ImageEncoder
from side_ray.surrogate.resnet import ResNet, ResNetConfig, load_torchvision

Input = Literal["imagenet", "symmetric"]
Encoder = Callable[[np.ndarray], np.ndarray]
"""Images uint8 [N, H, W, C] to features float32 [N, d]."""

BATCH = 512
MOST_BLOCKS = 256


class Teacher:
    """A classifier of clean images, in evaluation mode.

    Args:
        network: without time module; gray images are shown to one of three channels as gray RGB.
        size: side that images are resized to (bilinear with antialiasing); None = as they are.
        expects: pixels normalized with ImageNet's mean and deviation, or `symmetric`, from -1 to 1.
        device: torch device.

    Raises:
        UserError: the network takes fewer channels than the images have.
    """

    def __init__(
        self, network: ResNet, size: int | None = None, expects: Input = "symmetric", device: str = "cpu"
    ) -> None:
        self.network, self.size, self.expects, self.device = network.to(device).eval(), size, expects, device

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Softmax over the classes, float32 [N, K], of images uint8 [N, H, W, C]."""
        return self._map(images, logits=True)

    def features(self, images: np.ndarray) -> np.ndarray:
        """The penultimate layer, float32 [N, d], of images uint8 [N, H, W, C]."""
        return self._map(images, logits=False)

    @torch.no_grad()
    def _map(self, images: np.ndarray, logits: bool) -> np.ndarray:
        parts = []
        for start in range(0, len(images), BATCH):
            x = self._prepared(images[start : start + BATCH])
            parts.append((self.network(x).softmax(1) if logits else self.network.features(x)).cpu().numpy())
        return np.concatenate(parts)

    def _prepared(self, images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float()
        wanted, given = self.network.config.in_channels, x.shape[1]
        if given == 1 and wanted == 3:
            x = x.expand(-1, 3, -1, -1)
        elif given != wanted:
            raise UserError(f"surrogate.teacher: takes images of {wanted} channels, the data has {given}; give another")
        if self.size is not None:
            side = (self.size, self.size)
            x = functional.interpolate(x, size=side, mode="bilinear", antialias=True).clamp_(0, 255)
        if self.expects == "symmetric":
            return x / 127.5 - 1
        mean, deviation = (torch.tensor(row, device=x.device)[:wanted, None, None] for row in IMAGENET)
        return (x / 255 - mean) / deviation


def open_teacher(path: str, size: int | None, expects: Input, device: str = "cpu") -> Teacher:
    """A ResNet of basic blocks in torchvision's layout (`resnet18`, `resnet34`, also with a 3×3 stem), whose number of
    blocks, channels and classes is read from the weights.

    Raises:
        UserError: no such file, no state dict of plain tensors, or one of another network.
    """
    state = _state_dict(path)
    try:
        stem, last = state["conv1.weight"], state["fc.weight"]
        blocks = [0] * 4
        for name in state:
            if found := re.match(r"layer([1-4])\.(\d+)\.", name):
                blocks[int(found[1]) - 1] = max(blocks[int(found[1]) - 1], int(found[2]) + 1)
        if sum(blocks) > MOST_BLOCKS:
            raise UserError(f"it has {sum(blocks):,} blocks, more than any ResNet")
        config = ResNetConfig(
            num_classes=last.shape[0],
            blocks=tuple(blocks),
            width=stem.shape[0],
            in_channels=stem.shape[1],
            stem="imagenet" if stem.shape[-1] == 7 else "cifar",
        )
        network = load_torchvision(state, config)
    except KeyError as error:
        raise UserError(f"surrogate.teacher: {path} is no ResNet of torchvision's: it has no {error}") from None
    except (IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"surrogate.teacher: {path} is no ResNet of torchvision's ({first_line(error)[:120]})"
        ) from None
    except UserError as error:
        raise UserError(f"surrogate.teacher: {path}: {error}") from None
    return Teacher(network, size, expects, device)


def _state_dict(path: str) -> dict[str, torch.Tensor]:
    """Weights from safetensors or from a state dict that `torch.save` wrote; no code in the file is run."""
    try:
        if Path(path).suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"surrogate.teacher: {path} cannot be read ({error.strerror}); check the path") from None
    except Exception as error:  # damaged files make the readers raise nearly anything
        raise UserError(
            f"surrogate.teacher: {path} is no file of plain weights ({first_line(error)[:120]}); save the network's state_dict()"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"surrogate.teacher: {path} holds more than weights; save the network's state_dict()")
    with naming("surrogate.teacher"):
        check_finite(state, path)
    return state


def open_encoder(
    kind: Literal["sscd", "clip"], key: str, path: str, policy: str, device: str = "cpu", trusted: bool = False
) -> Encoder:
    """An encoder from an ONNX or TorchScript file: images uint8 [N, H, W, C] to unit vectors float32 [N, d].

    Args:
        kind: `clip` has CLIP's own preprocessing (224 pixels, bicubic, its mean and deviation), `sscd` has `policy`.
        key: the config's key of `path`, for messages.
        trusted: whether TorchScript may be run.

    Raises:
        UserError: the file is no such model, or not trusted. The encoder raises it where the model gives other than one
            vector per image.
    """
    return ImageEncoder(path, "clip224" if kind == "clip" else policy, key, device=device, trusted=trusted).embed
