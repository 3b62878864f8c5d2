"""The latent space of a VAE: its codec, and statistics of a model's latents."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from side_ray.diffusion.denoisers.layout import names_in, vae_in, vae_variant
from side_ray.diffusion.files import read_json
from side_ray.diffusion.spaces.codec import Codec, Shape
from side_ray.diffusion.spaces.pixels import PixelCodec
from side_ray.errors import UserError, first_line

STATISTICS = "latents.json"
CHUNK_PIXELS = 2**19
"""Pixels that are encoded or decoded at a time."""
MEASURED = 2**25
"""Values that statistics are taken of."""
TAILS = 0.001
"""Share of the latents below, and above, what `LatentStatistics` keeps as their range."""


@dataclass(frozen=True)
class LatentCodec(Codec):
    """A VAE in eval mode: z_0 = scale · (E(x) − shift), where E(x) is the mode of a Gaussian posterior.

    It computes in float32, whatever the autocast, and in chunks, so that memory does not grow with the batch.

    Args:
        vae: an `AutoencoderKL`, `AutoencoderTiny` or `VQModel`, whose quantization is a part of decoding.
        factor: how many times larger an image is along each side.
        channels: (C, c), of images and of latents.
        pixels: the range of the VAE's images; None = [−1, 1].
    """

    vae: Any
    factor: int
    channels: tuple[int, int]
    pixels: Codec | None = None
    latent: ClassVar[bool] = True

    @classmethod
    def of(cls, vae: Any) -> Self:
        """The codec of a VAE, whose shapes are found by a trial.

        Raises:
            UserError: it does not decode what it encodes.
        """
        vae.eval().requires_grad_(False)
        config = vae.config
        latents = config.get("vq_embed_dim") or config["latent_channels"]
        codec = cls(vae, 1, (config["in_channels"], latents))
        try:
            made = tuple(codec._decoded(torch.zeros(1, latents, 4, 4, device=vae.device)).shape)
            back = tuple(codec._encoded(torch.zeros(made, device=vae.device)).shape)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"the VAE cannot be used: {first_line(error)}") from error
        if back != (1, latents, 4, 4) or made[1] != config["in_channels"] or made[2] != made[3]:
            raise UserError(f"the VAE makes {made} of {(1, latents, 4, 4)}, and {back} of that; it is no autoencoder")
        return replace(codec, factor=made[2] // 4)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """That of the `vae/`, `vqvae/` or `movq/` in a model's directory; None if there is none.

        Raises:
            UserError: its files are damaged, or it is no VAE.
        """
        names = names_in(directory)
        if not (part := vae_in(names)):
            return None
        from diffusers import AutoencoderKL, AutoencoderTiny, VQModel

        from side_ray.diffusion.networks.loading import load_network

        vae = load_network(directory / part, "VAE", (AutoencoderKL, VQModel, AutoencoderTiny), vae_variant(names))
        return cls.of(vae)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self._by_parts(lambda part: self._encoded(self._ranged(part)), x, math.prod(x.shape[2:]))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self._by_parts(self._image, z, math.prod(z.shape[2:]) * self.factor**2)

    def pulled_back(self, z: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        def pulled(part: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                leaf = part.detach().requires_grad_(True)
                (found,) = torch.autograd.grad(self._image(leaf), leaf, given)
            return found

        return self._by_parts(pulled, z, math.prod(gradient.shape[2:]), gradient)

    def image_shape(self, shape: Shape) -> Shape:
        return self.channels[0], shape[1] * self.factor, shape[2] * self.factor

    def with_range(self, pixels: Codec) -> Self:
        return replace(self, pixels=None if pixels == PixelCodec((-1.0,), (1.0,)) else pixels)

    def _ranged(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.pixels is None else self.pixels.encode(x)

    def _image(self, z: torch.Tensor) -> torch.Tensor:
        x = self._decoded(z)
        return x if self.pixels is None else self.pixels.decode(x)

    def _encoded(self, x: torch.Tensor) -> torch.Tensor:
        found = self.vae.encode(x)
        shift, scale = self._affine(x)
        return (found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents).sub(shift) * scale

    def _decoded(self, z: torch.Tensor) -> torch.Tensor:
        shift, scale = self._affine(z)
        image: torch.Tensor = self.vae.decode(z / scale + shift).sample
        return image

    def _affine(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift and scale, broadcasting to [B, c, h, w]; some VAEs give the mean and deviation of each channel."""
        config = self.vae.config
        shift: Any = config.get("latents_mean") or config.get("shift_factor") or 0.0
        scale = torch.tensor(config.get("scaling_factor") or 1.0, dtype=like.dtype, device=like.device)
        if config.get("latents_std"):
            scale = scale / torch.tensor(config["latents_std"], dtype=like.dtype, device=like.device)
        shift = torch.tensor(shift, dtype=like.dtype, device=like.device)
        return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)

    def _by_parts(
        self, function: Callable[..., torch.Tensor], whole: torch.Tensor, pixels: int, *others: torch.Tensor
    ) -> torch.Tensor:
        """`function` of [B, …] and others of as many rows, in float32, some rows of so many pixels at a time."""
        if self.vae.device != whole.device:
            self.vae.to(whole.device)
        size = max(1, CHUNK_PIXELS // pixels)
        with torch.no_grad(), torch.autocast(whole.device.type, enabled=False):
            parts = zip(*(each.float().split(size) for each in (whole, *others)), strict=True)
            return torch.cat([function(*part) for part in parts])


@dataclass(frozen=True)
class LatentStatistics:
    """Of a model's own latents, by channel.

    Args:
        mean, std: of the values.
        low, high: their quantiles at `TAILS` and 1 − `TAILS`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, latents: np.ndarray) -> Self:
        """Those of float32 [N, c, h, w], of at most about `MEASURED` values, spread over the rows.

        Raises:
            UserError: a channel has one value only.
        """
        rows = np.unique(
            np.linspace(0, len(latents) - 1, min(len(latents), MEASURED // latents[0].size + 1)).astype(int)
        )
        values = latents[rows].transpose(1, 0, 2, 3).reshape(latents.shape[1], -1).astype(np.float64)
        low, high = np.quantile(values, [TAILS, 1 - TAILS], axis=1)
        found = cls(*(tuple(map(float, each)) for each in (values.mean(1), values.std(1), low, high)))
        if not all(math.isfinite(each) and each > 0 for each in found.std):
            raise UserError("the latents of the model's own samples have no variance: its weights are of no use")
        return found

    @classmethod
    def standard(cls, channels: int) -> Self:
        """Those of standard normal latents."""
        return cls((0.0,) * channels, (1.0,) * channels, (-3.09,) * channels, (3.09,) * channels)

    def save(self, directory: Path) -> None:
        """Write `latents.json` beside a classifier of these latents."""
        (directory / STATISTICS).write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """What `save` wrote; None without the file: the model is one of pixels.

        Raises:
            UserError: the file is damaged.
        """
        if not (directory / STATISTICS).exists():
            return None
        content = read_json(directory / STATISTICS)
        try:
            return cls(*(tuple(map(float, content[each.name])) for each in fields(cls)))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{directory / STATISTICS} holds no statistics of latents: train the classifier again"
            ) from error

    def column(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """One of them, broadcasting to `like` [B, c, h, w]."""
        return torch.tensor(getattr(self, name), dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
