"""The digits that ship with scikit-learn."""

from collections.abc import Container, Iterator
from typing import Any, Self

import numpy as np

from side_ray.config.data import IMAGE_KEYS
from side_ray.images import ImageSet
from side_ray.sources.base import Place, Record, Source, Unit


def load_digits() -> ImageSet:
    """scikit-learn's 1,797 scanned digits, uint8 [N, 8, 8, 1], in their own order."""
    from sklearn import datasets

    digits = datasets.load_digits()
    # The scans run from 0 to 16; 255/16 maps them onto the whole range of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    return ImageSet(np.arange(len(images)), images, digits.target.astype(np.int64))


class DigitsSource(Source):
    """All digits as one unit. They have no path, and they are used unchanged."""

    needs_path = False
    converts = False
    grayscale = True
    side = 8
    uri = "scikit-learn's digits"
    labelled = True

    @classmethod
    def check_section(cls, section: Any) -> None:
        unused = sorted(section.changed() & (IMAGE_KEYS | {"path", "holdout_path"}))
        if unused:
            raise ValueError(
                f"data.{unused[0]}: source digits comes with scikit-learn as it is; drop this key or choose another data.source"
            )

    @classmethod
    def open(cls, place: Place, options: Any) -> Self:
        return cls()

    def count(self) -> int | None:
        return len(load_digits())

    def units(self) -> Iterator[Unit]:
        return iter([{}])

    def read(self, unit: Unit, only: Container[int] | None = None) -> Iterator[Record]:
        digits = load_digits()
        assert digits.labels is not None
        for number, (image, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
            yield Record(str(number), image[:, :, 0], str(label))

    def identity(self) -> None:
        return None
