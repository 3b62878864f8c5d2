"""Authenticity of Alaa et al., "How Faithful is your Synthetic Data?" (ICML 2022, arXiv 2102.08921)."""

from typing import Any

import numpy as np

from side_ray.statistics.intervals import clopper_pearson


def authenticity(distance: np.ndarray, spacing: np.ndarray) -> dict[str, Any]:
    """The share of samples that are farther from their nearest training image than that image is from its own nearest other one.

    This is AuthPct as a fraction. A sample at the same distance is not authentic, so no exact copy is.

    Args:
        distance: float64 [N], from each sample to its nearest training image.
        spacing: float64 [N], from that training image to the nearest other training image, in the same unit.

    Returns:
        `share`, `count`, `ci` (95 %, Clopper–Pearson, for this training set).
    """
    count, n = int((distance > spacing).sum()), int(distance.size)
    return {"share": count / n, "count": count, "ci": list(clopper_pearson(count, n))}
