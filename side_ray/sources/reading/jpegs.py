"""Finds JPEGs whose image data is damaged although they end in an end mark. Pillow fills what is missing with gray."""

import io

import numpy as np
from PIL import Image

START = b"\xff\xd8"
END = b"\xff\xd9"
FILLER = bytes(range(17, 97))
ZEROS = bytes(64)
CORNER = 8
TAIL = 16


def damage(data: bytes, pixels: np.ndarray) -> str:
    """What is wrong with the image data of a JPEG that Pillow decodes to `pixels`; "" if nothing is.

    Complete data does not change the image when bytes are put before the end mark: the decoder has read every block by then.
    If the data was cut, the decoder takes them for the missing blocks. Conversely, the last bytes of complete data are needed.
    Only files that look suspicious are decoded again: those with a flat last corner (which missing blocks are), progressive
    ones (whose missing data shows nowhere), and those with a long run of zero bytes.
    """
    end = data.rfind(END)
    if end < 0:
        return ""
    corner = pixels[-CORNER:, -CORNER:].reshape(-1, pixels[0, 0].size)
    flat, zeroed = bool((corner == corner[0]).all()), ZEROS in data
    if not flat and not zeroed and b"\xff\xc2" not in data:
        return ""
    if not np.array_equal(_decoded(data[:end] + FILLER + data[end:]), pixels):
        return "its image data ends early"
    if zeroed and not flat:
        kept = data[: end - TAIL].removesuffix(b"\xff")
        if np.array_equal(_decoded(kept + data[end:]), pixels):
            return "a part of its image data is overwritten with zeros"
    return ""


def _decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image)
