"""Arrays to a device and back, through page-locked memory, which a GPU copies several times as fast."""

import numpy as np
import torch

PIECE = 2**25
"""Bytes that are page-locked at a time: torch keeps such memory."""


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on a device. On the CPU the tensor may be the same memory."""
    # A copy where memory is read-only, of which torch warns otherwise.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if device.type != "cuda":
        return tensor
    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    rows = max(1, PIECE * len(tensor) // max(1, array.nbytes))
    for target, piece in zip(there.split(rows), tensor.split(rows), strict=True):
        target.copy_(piece.pin_memory())
    return there


def download(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor of any device."""
    if tensor.is_cuda:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor).numpy()
    return tensor.numpy()
