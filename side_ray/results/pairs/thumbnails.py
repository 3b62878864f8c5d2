"""Thumbnails of a page: in the page itself as far as it stays small, the others in sheets of many in a folder beside it."""

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from side_ray.images import encode_png
from side_ray.results.opened import bits8, picture

THUMBNAIL = 96
"""Longest side (pixels) of an image among all pairs; the closest pairs of each method are shown in full. A multiple of a JPEG's
blocks, so that neighbours in a sheet do not run into each other."""
MOST_BYTES = 8 * 2**20
"""Of the thumbnails in a page, so that it stays below 15 MB."""
FOLDER = "pairs"
"""Beside the page."""
COLUMNS = ROWS = 16
"""Thumbnails in a sheet. An object store takes few files faster than many."""
_FOLDER_IN_PAGE = f'"folder":"{FOLDER}"'
_QUALITY = 85

Write = Callable[[str, bytes], None]


def small(image: np.ndarray) -> np.ndarray:
    """An image [H, W, C] with no side above `THUMBNAIL`."""
    if max(image.shape[:2]) <= THUMBNAIL:
        return image
    shrunk = picture(image)
    shrunk.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(shrunk).reshape(shrunk.height, shrunk.width, -1)


class Thumbnails:
    """Takes the thumbnails of one page, those that should be in it first.

    Args:
        write: writes a file beside the page, by its name `pairs/…`.
        side: the longest side of the images themselves. Those that are no larger than a thumbnail stay lossless.
    """

    def __init__(self, write: Write, side: int) -> None:
        self._write, self._lossless = write, side <= THUMBNAIL
        self._cell = min(side, THUMBNAIL)
        self._spent = self._cells = 0
        self._sheet: np.ndarray | None = None

    def add(self, image: np.ndarray) -> str | list[int]:
        """A thumbnail, of `small`: a data URI, or the number of its sheet, column and row there, width and height in pixels."""
        if self._spent < MOST_BYTES:
            uri = self._data_uri(image)
            self._spent += len(uri)
            return uri
        number, cell = divmod(self._cells, COLUMNS * ROWS)
        row, column = divmod(cell, COLUMNS)
        height, width = image.shape[:2]
        if self._sheet is None:
            self._sheet = np.zeros((ROWS * self._cell, COLUMNS * self._cell, image.shape[2]), np.uint8)
        y, x = row * self._cell, column * self._cell
        filled = ((0, self._cell - height), (0, self._cell - width), (0, 0))
        self._sheet[y : y + self._cell, x : x + self._cell] = np.pad(bits8(image), filled, mode="edge")
        self._cells += 1
        if cell == COLUMNS * ROWS - 1:
            self._close()
        return [number, column, row, width, height]

    def finish(self) -> dict[str, Any] | None:
        """Write the last sheet. Returns `folder`, `kind` (the files are `folder/NUMBER.kind`, three digits) and `cell`, the side
        of a cell in pixels; None without sheets."""
        if self._sheet is not None:
            self._close()
        return {"folder": FOLDER, "kind": self._kind, "cell": self._cell} if self._cells else None

    @property
    def _kind(self) -> str:
        return "png" if self._lossless else "jpg"

    def _close(self) -> None:
        assert self._sheet is not None
        number = (self._cells - 1) // (COLUMNS * ROWS)
        self._write(f"{FOLDER}/{number:03d}.{self._kind}", self._encoded(self._sheet))
        self._sheet = None

    def _encoded(self, image: np.ndarray) -> bytes:
        if self._lossless:
            return encode_png(image)
        buffer = io.BytesIO()
        # Without chroma subsampling, whose blocks are larger than a cell may be wide.
        picture(image).save(buffer, format="JPEG", quality=_QUALITY, subsampling=0)
        return buffer.getvalue()

    def _data_uri(self, image: np.ndarray) -> str:
        kind = "png" if self._lossless else "jpeg"
        return f"data:image/{kind};base64," + base64.b64encode(self._encoded(image)).decode("ascii")


def moved(page: str, key: str) -> str:
    """The page as a copy at the top of the run, from where its folder is in `key`."""
    return page.replace(_FOLDER_IN_PAGE, f'"folder":"{key}/{FOLDER}"')
