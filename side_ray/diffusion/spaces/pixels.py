"""The codec between images in [−1, 1] and what a model diffuses: for pixel models, the values that black and white have there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from side_ray.config import DpmSection
from side_ray.diffusion.files import read_json
from side_ray.diffusion.spaces.codec import Codec, Shape
from side_ray.errors import UserError

FILE = "pixels.json"


@dataclass(frozen=True)
class PixelCodec(Codec):
    """Pixels x in [−1, 1] as z = (black + white) / 2 + x · (white − black) / 2 in the model.

    Args:
        black: the model's value of a black pixel: one number, or one for each channel.
        white: that of a white pixel, as many numbers.
    """

    black: tuple[float, ...]
    white: tuple[float, ...]

    @classmethod
    def standardized(cls, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Of a model whose training subtracted `mean` from pixels in [0, 1] and divided by `std`, each > 0."""
        pairs = list(zip(mean, std, strict=True))
        return cls(tuple(-m / s for m, s in pairs), tuple((1 - m) / s for m, s in pairs))

    @classmethod
    def of(cls, dpm: DpmSection) -> Self | None:
        """What the config says of an imported model; None if its pixels are in [−1, 1]."""
        if dpm.pixel_mean is not None and dpm.pixel_std is not None:
            return cls.standardized(dpm.pixel_mean, dpm.pixel_std)
        if dpm.pixel_range is None or dpm.pixel_range == (-1, 1):
            return None
        return cls((dpm.pixel_range[0],), (dpm.pixel_range[1],))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [−1, 1] → the model's values."""
        low, high = self._edges(x)
        return (low + high) / 2 + x * (high - low) / 2

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`; values that are no colour come out outside of [−1, 1]."""
        low, high = self._edges(z)
        return (2 * z - (low + high)) / (high - low)

    def clamp(self, z: torch.Tensor) -> torch.Tensor:
        """The model's values [B, C, H, W] between black and white."""
        low, high = self._edges(z)
        return z.clamp(torch.minimum(low, high), torch.maximum(low, high))

    def slope(self, like: torch.Tensor) -> torch.Tensor:
        """dx/dz, broadcasting to images [B, C, H, W]."""
        low, high = self._edges(like)
        return 2 / (high - low)

    def pulled_back(self, z: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * self.slope(z)

    def image_shape(self, shape: Shape) -> Shape:
        return shape

    def with_range(self, pixels: Codec) -> Codec:
        return pixels

    def save(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps({"black": list(self.black), "white": list(self.white)}) + "\n")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """What `save` wrote; None without the file: the model's images are in [−1, 1].

        Raises:
            UserError: the file does not give two lists of as many different numbers.
        """
        if not (directory / FILE).exists():
            return None
        found = read_json(directory / FILE)
        try:
            codec = cls(tuple(map(float, found["black"])), tuple(map(float, found["white"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{directory / FILE} must give the lists `black` and `white`") from error
        if len(codec.black) != len(codec.white) or any(map(float.__eq__, codec.black, codec.white)):
            raise UserError(f"{directory / FILE}: `black` and `white` must be as many numbers, which differ")
        return codec

    def fits(self, channels: int) -> bool:
        """Whether there is one number for all channels, or one for each."""
        return len(self.black) in (1, channels)

    def _edges(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = (torch.tensor(each, dtype=like.dtype, device=like.device) for each in (self.black, self.white))
        return low.view(1, -1, 1, 1), high.view(1, -1, 1, 1)
