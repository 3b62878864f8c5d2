"""Converts encoded images to the pixels of the run: one size, gray or RGB of 8 bits, or gray of 16."""

import io
import re
import struct
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from side_ray.images import DEEP
from side_ray.sources.reading import jpegs, pngs

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "JPEG2000", "AVIF", "HEIF", "QOI", "SGI", "PCX", "PSD")
"""Formats that are read, whatever the file is called. Others are refused, because some of Pillow's readers run other
programs."""
EXTENSIONS = frozenset(
    re.findall(
        r"\w+",
        "jpg jpeg jpe jfif png apng webp bmp ppm pgm pbm pnm tif tiff gif jp2 j2k jpf jpx avif heic heif hif qoi sgi pcx psd "
        "jxl tga exr dng cr2 cr3 nef arw",
    )
)
"""Extensions of images, also of kinds that are not read: such a file is named as one that cannot be used."""
HEAD_BYTES = 32
"""As many bytes at the start of a file show whether it is an image."""
MOST_PIXELS = 1 << 27
"""Largest image that is decoded, in pixels of one byte per channel; images with more bytes per channel may have a quarter."""
UNKNOWN_RANGE = 4095
"""16-bit values that never pass this come from 8, 10 or 12 bits as likely as from a dark image of 16."""
_MARKS = {
    "BMP": re.compile(rb"BM.{4}\0{4}", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s+[#\d]"),
    "PCX": re.compile(rb"\n[\x00\x02\x03\x05]\x01[\x01\x02\x04\x08]"),
    "SGI": re.compile(rb"\x01\xda[\x00\x01][\x01\x02]"),
}
"""Stricter than Pillow's own marks, which a text such as "BMW" meets."""
_GRAY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")
_DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")

_DAMAGED_EXIF = (SyntaxError, ValueError, KeyError, TypeError, OverflowError, IndexError, struct.error)
"""What Pillow raises for EXIF data that says nothing."""


class Unusable(Exception):
    """An image cannot be part of the data set. The message gives the reason and, where there is one, a remedy."""


@cache
def readable() -> tuple[str, ...]:
    """The formats of `FORMATS` that can be read here: HEIF needs the package pillow-heif."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def is_image(head: bytes) -> bool:
    """Whether a file that starts with these `HEAD_BYTES` bytes is an image that can be read."""
    head = head.ljust(HEAD_BYTES, b"\0")
    return any(
        Image.OPEN[kind][1](head[:16]) is True and (kind not in _MARKS or _MARKS[kind].match(head))
        for kind in readable()
    )


@dataclass(frozen=True)
class Transform:
    """The conversion of an image to the pixels of the run.

    The orientation in EXIF is applied, unless `upright` is false. Palettes, CMYK and other colour spaces become RGB by Pillow's
    conversion without colour profiles. Gray of 16 bits stays so with `grayscale`, unless 8 hold it without loss; else it becomes
    8 by division by 257 (16-bit colour by dropping the low byte, as Pillow reads it), or as `value_range` says. Values of 16 bits
    that never pass 4,095 are refused without it, because images of 8 or 12 bits stored in 16 would come out black. An alpha
    channel that is opaque everywhere is dropped; real transparency, floating-point pixels without `value_range` and animations
    are refused, because it is unknown how the model's training converted them.

    Attributes:
        crop: side of the square cut out of the middle; None = the shorter side where `size` is given, else no crop.
        size: side that the square is resized to (Lanczos with antialiasing); None = no resizing.
        grayscale: one channel (ITU-R 601 luma) instead of three.
        value_range: the values that become black and white, for images of more than 8 bits or of floating point.
        upright: turn images as their EXIF data says.
    """

    crop: int | None = None
    size: int | None = None
    grayscale: bool = False
    value_range: tuple[float, float] | None = None
    upright: bool = True

    def settings(self) -> dict[str, Any]:
        """What the result depends on, for fingerprints."""
        usual = {"value_range": None, "upright": True}
        return {name: value for name, value in asdict(self).items() if name not in usual or value != usual[name]}

    @property
    def channels(self) -> int:
        """Channels of the result."""
        return 1 if self.grayscale else 3

    def __call__(self, content: bytes | np.ndarray) -> np.ndarray:
        """Pixels uint8 [H, W, C], C of 1 or 3; or uint16 [H, W, 1], where 8 bits would lose some of them.

        Args:
            content: an encoded image, or pixels [H, W, 3] or [H, W] of any real dtype.

        Raises:
            Unusable: the content is not an image, is truncated, or is of a kind that is refused.
        """
        try:
            if isinstance(content, np.ndarray):
                return self._fit(Image.fromarray(self._scaled(content)))
            try:
                return self._decoded(content)
            except (Unusable, Image.UnidentifiedImageError):
                raise
            except Exception:
                # Pillow refuses whole pixels because of damaged or very large metadata.
                if content[:8] != pngs.SIGNATURE:
                    raise
                return self._decoded(pngs.without_metadata(content))
        except Unusable:
            raise
        except Image.UnidentifiedImageError:
            raise Unusable(_unidentified(content)) from None
        except Image.DecompressionBombError as error:
            raise Unusable(f"is too large: {error}") from error
        # Damaged files make Pillow's readers raise nearly anything.
        except Exception as error:
            raise Unusable(f"damaged ({type(error).__name__}: {error})"[:200]) from error

    def _decoded(self, content: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=readable()) as image:
            deep = image.mode in _DEEP or pngs.is_deep(content)
            pixels = image.width * image.height
            if pixels * (4 if deep else 1) > MOST_PIXELS:
                raise Unusable(f"{image.width}×{image.height} pixels are too many; the most is {MOST_PIXELS:,}")
            image.load()
            if content[:2] == jpegs.START and (wrong := jpegs.damage(content, np.asarray(image))):
                raise Unusable(f"damaged ({wrong})")
            return self._fit(self._eight_bits(image, pngs.is_deep(content) or _deep_tiff(image)))

    def _fit(self, image: Image.Image) -> np.ndarray:
        deep = image.mode == "I;16"
        if not deep:
            image = image.convert("L" if self.grayscale else "RGB")
        if self.crop or self.size:
            side = self.crop or min(image.size)
            if side > min(image.size):
                raise Unusable(f"{image.width}×{image.height} pixels are less than data.crop ({side})")
            left, top = (image.width - side) // 2, (image.height - side) // 2
            if (left, top, side, side) != (0, 0, *image.size):
                image = image.crop((left, top, left + side, top + side))
        if self.size and image.width != self.size:
            # Pillow resizes 16 bits only by picking pixels.
            image = Image.fromarray(np.asarray(image).astype(np.float32)) if deep else image
            image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        if deep:
            pixels = np.clip(np.rint(pixels), 0, 65535).astype(np.uint16)
            pixels = pixels if (pixels % DEEP).any() else (pixels // DEEP).astype(np.uint8)
        return pixels[:, :, None] if self.grayscale else pixels

    def _eight_bits(self, image: Image.Image, deep: bool) -> Image.Image:
        """The image upright, with 8 bits per channel. Refuses transparency and several frames.

        Args:
            deep: whether the channels of the file have 16 bits.
        """
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise Unusable(f"holds {image.n_frames} frames; save one of them as a separate image")
        if self.upright:
            with suppress(*_DAMAGED_EXIF):
                image = ImageOps.exif_transpose(image)
        if image.mode in _DEEP:
            return Image.fromarray(self._scaled(np.asarray(image)))
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema()[0] < 255:
                raise Unusable("has transparent pixels; flatten it onto the background that the model was trained with")
            image = image.convert("RGB")
        image = image if image.mode in (*_GRAY, "RGB") else image.convert("RGB")
        # Pillow keeps the high bytes of 16-bit colour: what is left of 8 or 12 bits in 16 is all but black.
        if deep and (self.value_range or 0 < np.asarray(image).max() <= UNKNOWN_RANGE // 257):
            raise Unusable("has 16 bits per colour, of which only the high bytes can be read; save it with 8 bits")
        return image

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        """uint8, or uint16 of gray images with `grayscale`, from pixels of any dtype. Raises Unusable where their range is not
        known."""
        if values.dtype == np.uint8:
            return values
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * 255
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Unusable("has pixels that are NaN or infinite")
        least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if self.value_range is None:
            if values.dtype.kind == "f":
                raise Unusable("has floating-point pixels; give data.value_range, or save it with 8 bits")
            if least < 0 or most > 65535:
                raise Unusable("has more than 16 bits; give data.value_range, or save it with 8")
            if 0 < most <= UNKNOWN_RANGE:
                raise Unusable(
                    f"has 16-bit values of at most {most:,.0f}, so their range is not known; give data.value_range, for "
                    f"example [0, {255 if most <= 255 else UNKNOWN_RANGE}]"
                )
        low, high = self.value_range or (0.0, 65535.0)
        if least < low or most > high:
            raise Unusable(f"has values from {least:g} to {most:g}, outside data.value_range [{low:g}, {high:g}]")
        kept = np.uint16 if self.grayscale and values.ndim == 2 else np.uint8
        most = np.iinfo(kept).max
        return np.round((values.astype(np.float64) - low) / ((high - low) / most)).astype(kept)


def is_turned(content: bytes | np.ndarray) -> bool:
    """Whether EXIF data says that an encoded image is to be turned or mirrored to be upright."""
    if isinstance(content, np.ndarray) or (content[:8] == pngs.SIGNATURE and b"eXIf" not in content):
        return False
    try:
        with Image.open(io.BytesIO(content), formats=readable()) as image:
            return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except (OSError, Image.DecompressionBombError, *_DAMAGED_EXIF):
        return False


def _deep_tiff(image: Image.Image) -> bool:
    return image.format == "TIFF" and 16 in getattr(image, "tag_v2", {}).get(258, ())


def _unidentified(content: bytes | np.ndarray) -> str:
    """Why an image is not of a known format."""
    head = content[:16] if isinstance(content, bytes) else b""
    if head[4:8] == b"ftyp" and "HEIF" not in readable():
        return "not an image of a known format; HEIC needs the package pillow-heif: pip install 'side-ray[heif]'"
    return "not an image of a known format"
