"""Loops over rows of features."""

import numpy as np

from side_ray.search.cpu_int8.compiler import compiled


@compiled
def are_pixels(rows: np.ndarray) -> bool:
    """Whether all values of float32 [N, d] are whole numbers 0 … 255."""
    for i in range(rows.shape[0]):
        others = 0
        for j in range(rows.shape[1]):
            value = rows[i, j]
            others += not ((value == np.rint(value)) & (value >= 0) & (value <= 255))
        if others:
            return False
    return True


@compiled
def shift(pixels: np.ndarray, shifted: np.ndarray, norms: np.ndarray) -> None:
    """Write pixel values float32 [N, d] less 128 as int8 [N, d], and the squared norms of these rows, int32 [N]."""
    for i in range(pixels.shape[0]):
        total = np.int32(0)
        for j in range(pixels.shape[1]):
            value = np.int32(pixels[i, j]) - np.int32(128)
            shifted[i, j] = np.int8(value)
            total += np.int32(value * value)
        norms[i] = total


@compiled
def quantize(rows: np.ndarray, rounded: np.ndarray, scales: np.ndarray, lengths: np.ndarray, lost: np.ndarray) -> None:
    """Round float32 [N, d] to int8 times a scale of each row.

    Args:
        rounded, scales: int8 [N, d] and float32 [N], written.
        lengths, lost: float64 [N], written: ‖scale · rounded‖, and the length of what it lacks of the row.
    """
    for i in range(rows.shape[0]):
        largest = np.float32(0)
        for j in range(rows.shape[1]):
            largest = max(largest, abs(rows[i, j]))
        scale = largest / np.float32(127) if largest > 0 else np.float32(1)
        kept, missing = 0.0, 0.0
        for j in range(rows.shape[1]):
            value = np.rint(rows[i, j] / scale)
            value = min(max(value, np.float32(-127)), np.float32(127))
            rounded[i, j] = np.int8(value)
            near = np.float64(value) * np.float64(scale)
            kept += near * near
            missing += (np.float64(rows[i, j]) - near) ** 2
        scales[i], lengths[i], lost[i] = scale, np.sqrt(kept), np.sqrt(missing)
