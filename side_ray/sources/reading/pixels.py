"""Converts encoded images to the pixels of the run: one size, 8 bits, gray or RGB."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""Formats that are read. Others are refused, because some of Pillow's readers run other programs."""
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "pgm", "tif", "tiff", "gif")
_GRAY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")


class Unusable(Exception):
    """An image cannot be part of the data set. The message gives the reason and, where there is one, a remedy."""


@dataclass(frozen=True)
class Transform:
    """The conversion of an image to the pixels of the run.

    The orientation in EXIF is applied. Palettes, CMYK and other colour spaces become RGB by Pillow's conversion without colour
    profiles, 16 bits gray become 8 by division by 257 (16-bit colour by dropping the low byte, as Pillow reads it). An alpha
    channel that is opaque everywhere is dropped; real transparency, floating-point pixels and animations are refused,
    because it is unknown how the model's training converted them.

    Attributes:
        crop: side of the square cut out of the middle; None = the shorter side where `size` is given, else no crop.
        size: side that the square is resized to (Lanczos with antialiasing); None = no resizing.
        grayscale: one channel (ITU-R 601 luma) instead of three.
    """

    crop: int | None = None
    size: int | None = None
    grayscale: bool = False

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return 1 if self.grayscale else 3

    def __call__(self, content: bytes | np.ndarray) -> np.ndarray:
        """Pixels uint8 [H, W, C], C of 1 or 3.

        Raises:
            Unusable: the content is not an image, is truncated, or is of a kind that is refused.
        """
        try:
            if isinstance(content, np.ndarray):
                return self._fit(Image.fromarray(content))
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return self._fit(_eight_bits(image))
        except Unusable:
            raise
        except Image.UnidentifiedImageError:
            raise Unusable("not an image of a known format") from None
        # Damaged files make Pillow's readers raise nearly anything.
        except Exception as error:
            raise Unusable(f"damaged ({type(error).__name__}: {error})") from error

    def _fit(self, image: Image.Image) -> np.ndarray:
        image = image.convert("L" if self.grayscale else "RGB")
        if self.crop or self.size:
            side = self.crop or min(image.size)
            if side > min(image.size):
                raise Unusable(f"{image.width}×{image.height} pixels are less than data.crop ({side})")
            left, top = (image.width - side) // 2, (image.height - side) // 2
            if (left, top, side, side) != (0, 0, *image.size):
                image = image.crop((left, top, left + side, top + side))
        if self.size and image.width != self.size:
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[:, :, None] if self.grayscale else pixels


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image upright, with 8 bits per channel. Refuses transparency and several frames."""
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise Unusable(f"holds {image.n_frames} frames; save one of them as a separate image")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise Unusable("has transparent pixels; flatten it onto the background that the model was trained with")
        return image.convert("RGB")
    if image.mode == "F":
        raise Unusable("has floating-point pixels; save it with 8 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise Unusable("has more than 16 bits; save it with 8")
        return Image.fromarray(np.round(values / 257).astype(np.uint8))
    return image if image.mode in (*_GRAY, "RGB") else image.convert("RGB")
