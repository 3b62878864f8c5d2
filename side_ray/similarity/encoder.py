"""Image encoders in TorchScript or ONNX, with the preprocessing that they expect.

Published code disagrees about the preprocessing of SSCD, and so do its scores: the policy and the checkpoint's SHA-256 are part
of every result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from side_ray.errors import UserError
from side_ray.similarity.base import Images
from side_ray.similarity.weights import checked_kind, digest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
LONGEST = 32
"""Largest ratio of an image's sides, for policies that resize by the short side: the result of a larger one might not fit in
memory."""
BATCH_PIXELS = 2**25
"""Most pixels that are resized at a time; a larger image is resized by itself."""


@dataclass(frozen=True)
class Policy:
    """How images become the network's input: resized with antialiasing and rounded to 8 bits, as Pillow does."""

    short: int | None
    """Short side after resizing with the aspect ratio kept; None resizes to `square`."""
    square: int | None
    """Side after resizing (`short` None) or of the centre crop."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation of each channel, of values in [0, 1]."""
    mode: str = "bilinear"
    """torch's interpolation mode."""

    @property
    def text(self) -> str:
        """In words, for results."""
        steps = [f"short side {self.short}"] if self.short is not None else []
        steps += [f"square {self.square}"] if self.square is not None else []
        return ", ".join([*steps, self.mode])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before any crop."""
        if self.short is None:
            assert self.square is not None
            return self.square, self.square
        small = min(height, width)
        return int(self.short * height / small), int(self.short * width / small)


POLICIES = {
    "resize288": Policy(288, None, IMAGENET),  # SSCD's own recommendation
    "resize320": Policy(None, 320, IMAGENET),  # SSCD's, for inputs of one size
    "center224": Policy(256, 224, HALF),  # of the diffusion replication studies
    "clip224": Policy(224, 224, CLIP, "bicubic"),  # of CLIP image encoders
}


class ImageEncoder:
    """Unit vectors of images from a network.

    Args:
        checkpoint: local path of an ONNX export, or of TorchScript. An ONNX model whose input is uint8 is given the resized
            pixels, and normalizes them itself.
        policy: preprocessing, or a key of `POLICIES`.
        key: the config key of `checkpoint`, for messages.
        device: torch device; with CUDA, ONNX runs on its CUDA provider.
        batch_size: images per forward pass.
        trusted: whether TorchScript may be run, see `weights`.
        pooling: of an output [B, tokens, d] or [B, d, h, w]: `first` token, or `mean` over tokens or places.

    Raises:
        UserError: no such checkpoint or policy, or a checkpoint that may not or cannot be loaded.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        policy: "str | Policy",
        key: str,
        *,
        device: str = "cpu",
        batch_size: int = 64,
        trusted: bool = False,
        pooling: str = "none",
    ) -> None:
        if isinstance(policy, str) and policy not in POLICIES:
            raise UserError(f"{policy!r} is unknown; use one of {', '.join(POLICIES)}", "score.preprocessing")
        path = Path(checkpoint)
        self.key = key
        self.policy = POLICIES[policy] if isinstance(policy, str) else policy
        self.policy_name = policy if isinstance(policy, str) else policy.text
        self.pooling = pooling
        self.device, self.batch_size = device, batch_size
        self.format = checked_kind(path, key, trusted)
        self.sha256 = digest(path)
        self.normalizes_itself = False
        self.network = self._load_onnx(path) if self.format == "onnx" else self._load_torchscript(path)

    def params(self) -> dict[str, Any]:
        """What the vectors depend on, JSON-able."""
        normalization = (
            "in the checkpoint" if self.normalizes_itself else [list(row) for row in self.policy.normalization]
        )
        return {
            "checkpoint": self.sha256,
            "format": self.format,
            "policy": self.policy_name,
            "normalization": normalization,
        }

    def embed(self, images: Images) -> np.ndarray:
        """Unit vectors float32 [N, d] (512 for `sscd_disc_mixup`); gray becomes RGB, an alpha channel is dropped."""
        features: np.ndarray | None = None
        for rows, batch in self._batches(images):
            described = self._pooled(self.network(batch).astype(np.float64))
            if described.ndim != 2:
                shape = "×".join(map(str, described.shape))
                raise UserError(f"gives {shape} values, not one vector per image; export that output", self.key)
            lengths = np.linalg.norm(described, axis=1, keepdims=True)
            if not (np.isfinite(described).all() and lengths.all()):
                raise UserError("gives descriptors that are not finite or zero; check the file", self.key)
            if features is None:
                features = np.empty((len(images), described.shape[1]), np.float32)
            features[rows] = described / lengths
        return np.empty((0, 1), np.float32) if features is None else features

    def _pooled(self, output: np.ndarray) -> np.ndarray:
        if output.ndim == 3 and self.pooling != "none":
            return output[:, 0] if self.pooling == "first" else output.mean(axis=1)
        if output.ndim == 4 and self.pooling == "mean":
            return output.mean(axis=(2, 3))
        return output

    def _batches(self, images: Images) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Batches of images of one size: their rows, and their pixels after `preprocess`."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for row, image in enumerate(images):
            sizes.setdefault(image.shape, []).append(row)
        for (height, width, channels), rows in sizes.items():
            if channels not in (1, 2, 3, 4) or min(height, width) < 1:
                raise UserError(
                    f"image {rows[0]}: {height}×{width} with {channels} channels is not a gray, RGB or RGBA image"
                )
            if self.policy.short is not None and max(height, width) > LONGEST * min(height, width):
                raise UserError(
                    f"image {rows[0]}: {height}×{width} is too elongated for {self.policy_name}; use resize320"
                )
            step = max(1, min(self.batch_size, BATCH_PIXELS // (height * width)))
            for start in range(0, len(rows), step):
                chosen = rows[start : start + step]
                yield chosen, self.preprocess(np.stack([images[row] for row in chosen]))

    def preprocess(self, images: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W, C] → float32 [B, 3, h, w], integers 0 … 255, resized and cropped by the policy."""
        color = images[..., :1].repeat(3, axis=3) if images.shape[3] <= 2 else images[..., :3]
        pixels = torch.from_numpy(np.ascontiguousarray(color)).to(self.device).permute(0, 3, 1, 2).float()
        size = self.policy.size(*pixels.shape[2:])
        pixels = (
            torch.nn.functional.interpolate(pixels, size=size, mode=self.policy.mode, antialias=True)
            .round_()
            .clamp_(0, 255)
        )
        if self.policy.short is not None and self.policy.square is not None:
            side = self.policy.square
            top, left = (round((length - side) / 2) for length in size)
            pixels = pixels[:, :, top : top + side, left : left + side]
        return pixels

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, deviation = (torch.tensor(row, device=pixels.device)[:, None, None] for row in self.policy.normalization)
        return (pixels / 255 - mean) / deviation

    def _load_torchscript(self, path: Path) -> Callable[[torch.Tensor], np.ndarray]:
        try:
            module = torch.jit.load(str(path), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path} is not a TorchScript file ({reason}); check the file", self.key) from None

        def network(pixels: torch.Tensor) -> np.ndarray:
            # What `flags` is not told it switches off.
            enabled = torch.backends.cudnn.enabled
            with torch.inference_mode(), torch.backends.cudnn.flags(enabled=enabled, allow_tf32=False):
                return module(self._normalized(pixels)).float().cpu().numpy()

        return network

    def _load_onnx(self, path: Path) -> Callable[[torch.Tensor], np.ndarray]:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("an .onnx file needs onnxruntime; install side-ray[descriptors]", self.key) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        wanted = ["CUDAExecutionProvider"] if self.device.startswith("cuda") else []
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()] + [
            "CPUExecutionProvider"
        ]
        try:
            # A fallback prints on stdout, and another device gives other last bits.
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's own exceptions share no base class
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path} is not an ONNX model ({reason}); check the file", self.key) from None
        try:
            entry, *others = session.get_inputs()
            if others or len(entry.shape) != 4:
                raise ValueError
        except ValueError:  # also of names that are not UTF-8
            raise UserError(f"{path} takes no batch of images; check the file", self.key) from None
        self.normalizes_itself = entry.type == "tensor(uint8)"
        channels_last = entry.shape[-1] == 3

        def network(pixels: torch.Tensor) -> np.ndarray:
            array = pixels.to(torch.uint8) if self.normalizes_itself else self._normalized(pixels)
            array = array.permute(0, 2, 3, 1) if channels_last else array
            given = tuple(array.shape)
            if any(isinstance(side, int) and side != had for side, had in zip(entry.shape[1:], given[1:], strict=True)):
                raise UserError(
                    f"{self.policy_name} gives {given[1:]}, the checkpoint takes {tuple(entry.shape[1:])}; "
                    "use another policy or a checkpoint of free size",
                    "score.preprocessing",
                )
            try:
                return session.run(None, {entry.name: array.cpu().contiguous().numpy()})[0]
            except Exception as error:  # as above
                reason = str(error).strip().splitlines()[0]
                raise UserError(
                    f"{path} cannot describe these images ({reason[:160]}); check the file", self.key
                ) from None

        return network
