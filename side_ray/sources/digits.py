"""The digits that ship with scikit-learn."""

import numpy as np

from side_ray.images import ImageSet


def load_digits() -> ImageSet:
    """scikit-learn's 1,797 scanned digits, uint8 [N, 8, 8, 1], in their own order."""
    from sklearn import datasets

    digits = datasets.load_digits()
    # The scans run from 0 to 16; 255/16 maps them onto the whole range of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, :, :, None]
    return ImageSet(np.arange(len(images)), images, digits.target.astype(np.int64))
