"""What a codec is: the two ways between images and what a model diffuses."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

Shape = tuple[int, int, int]


class Codec(ABC):
    """Images x, float32 [B, C, H, W] in [−1, 1], as z_0, float32 [B, c, h, w]."""

    latent: ClassVar[bool] = False
    """Whether z_0 is something other than pixels."""

    @abstractmethod
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """z_0 of images."""

    @abstractmethod
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The images of z_0; values that are no colour are outside of [−1, 1]."""

    @abstractmethod
    def pulled_back(self, z: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """∂L/∂z, given ∂L/∂x at x = decode(z): the chain rule."""

    @abstractmethod
    def image_shape(self, shape: Shape) -> Shape:
        """(C, H, W) of the images of z_0 of the shape (c, h, w)."""

    @abstractmethod
    def with_range(self, pixels: "Codec") -> "Codec":
        """This codec for images whose pixels are as another codec makes them of [−1, 1]."""
