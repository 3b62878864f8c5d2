"""Conversions between the forms of an image: uint8 arrays in memory, PNG bytes in Parquet, float tensors for networks."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

if TYPE_CHECKING:
    import torch

DEEP = 257
"""Levels of 16 bits for one of 8: 65535 / 255."""
TURNS = ("turned a quarter to the left", "turned a quarter to the right")
CHANGES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored": lambda images: images[:, :, ::-1],
    "upside down": lambda images: images[:, ::-1, ::-1],
    TURNS[0]: lambda images: np.rot90(images, 1, (1, 2)),
    TURNS[1]: lambda images: np.rot90(images, 3, (1, 2)),
    "red and blue swapped": lambda images: images[..., ::-1],
}
"""What may differ between the images of a training and those that are read here; each takes [N, H, W, C]. `TURNS` are for
squares, the last is for colour."""


def _jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    """Images [N, H, W, C] after JPEG, which holds 8 bits of one or three channels; an alpha channel stays as it is."""

    def again(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="JPEG", quality=quality)
        with Image.open(buffer) as found:
            return np.asarray(found).reshape(image.shape)

    changed, coloured = images.copy(), 3 if images.shape[3] >= 3 else 1
    for place, image in enumerate(np.rint(images[..., :coloured]).astype(np.uint8)):
        changed[place, ..., :coloured] = again(image)
    return changed


def _halved(images: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] made half as high and wide and large again, both by Pillow's bicubic filter."""
    changed = np.empty_like(images)
    _, height, width, channels = images.shape
    for place, image in enumerate(images):
        for channel in range(channels):
            small = Image.fromarray(image[..., channel]).resize(
                (max(1, width // 2), max(1, height // 2)), Image.Resampling.BICUBIC
            )
            changed[place, ..., channel] = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return changed.clip(0, 255)


LOSSES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg_75": partial(_jpeg, quality=75),
    "jpeg_40": partial(_jpeg, quality=40),
    "half_size": _halved,
}
"""What a copy may have lost; each takes and gives [N, H, W, C] as of `decode_column`. `statistics.changes.LOSSES` says them in
words."""
IMAGE_TYPE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""HuggingFace's image layout, which `datasets`, pandas and DuckDB can open."""


def to_uint8(x: "torch.Tensor") -> np.ndarray:
    """Quantize images for storage.

    Args:
        x: float32 [N, C, H, W] in [-1, 1]; values outside are clipped.

    Returns:
        uint8 [N, H, W, C] in 0…255, `round((x + 1) · 127.5)`.
    """
    import torch

    scaled = ((x.detach().float() + 1) * 127.5).round().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()


def to_float(images: np.ndarray) -> "torch.Tensor":
    """Images [N, H, W, C] in 0 … 255 → float32 [N, C, H, W] in [-1, 1], the input range of the DPM and the classifiers."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()


def encode_png(image: np.ndarray) -> bytes:
    """Encode one image without loss: uint8 [H, W, C], C of 1 (gray), 3 (RGB) or 4 (RGBA); or gray of 16 bits, uint16 [H, W, 1] or
    as `decode_png` gives it."""
    buffer = io.BytesIO()
    if image.dtype == np.float32:
        image = np.rint(image * DEEP).astype(np.uint16)
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """Decode one image: of 8 bits per channel to uint8 [H, W, C], gray of 16 bits to float32 [H, W, 1] in 0 … 255.

    Raises:
        ValueError: the bytes are not an image that Pillow can read, or are truncated.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            array = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable image: {error}") from error
    if array.dtype in (np.uint16, np.int32):  # Pillow's modes of 16 bits
        array = (array / np.float32(DEEP)).astype(np.float32)
    if array.dtype not in (np.uint8, np.float32):
        raise ValueError(f"expected 8 or 16 bits per channel, found {array.dtype}")
    return array[:, :, None] if array.ndim == 2 else array


def image_column(images: Sequence[np.ndarray] | np.ndarray) -> pa.StructArray:
    """Images as of `encode_png` → an Arrow column of `IMAGE_TYPE`."""
    encoded = pa.array([encode_png(image) for image in images], pa.binary())
    return pa.StructArray.from_arrays([encoded, pa.nulls(len(images), pa.string())], fields=list(IMAGE_TYPE))


def decode_column(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """An Arrow column of `IMAGE_TYPE` whose images share one shape → uint8 [N, H, W, C], or float32 if one has 16 bits.

    Raises:
        ValueError: the images differ in shape, or one cannot be decoded.
    """
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    decoded = [decode_png(data) for data in combined.field("bytes").to_pylist()]
    if len({image.shape for image in decoded}) > 1:
        raise ValueError("the images differ in shape")
    return np.stack(decoded) if decoded else np.zeros((0, 0, 0, 0), np.uint8)


@dataclass(frozen=True)
class ImageSet:
    """Images of one split: `ids` int64 [N], `images` [N, H, W, C] as of `decode_column`, `labels` int64 [N] or None. Where only
    some images have a label, -1 marks the others."""

    ids: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)
