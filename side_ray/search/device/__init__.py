"""The search by torch on GPUs: products, selection and counts on the device, so that only results come back.

The rest of the engine does without this package: `search.kernels.KERNELS` has the only line that names it. The same code runs
on `cpu`, where the tests compare it with a float64 brute force; it is not faster there, so it is taken for CUDA devices only.

- `products`: training images as int8, half precision or float32, and by how much a score may be wrong.
- `part`: the training images of one device, and one pass over them.
- `counts`: counts at levels of what a pass sees.
- `pairs`: float64 values of single pairs, to the last bit those of `search.exact`.
- `kernel`: the kernel, which splits the training images over all visible devices.
"""

from typing import TYPE_CHECKING

import numpy as np

from side_ray.search.neighbors import Metric

if TYPE_CHECKING:
    from side_ray.search.kernels import Kernel

FEW = 2**22
"""Feature elements below which a GPU's start-up costs more than it saves."""


def make(features: np.ndarray, ids: np.ndarray, metric: Metric, threads: int, wanted: bool) -> "Kernel | None":
    """The kernel on all CUDA devices with room for the features; None where there is none.

    Args:
        threads: not used; the work is the device's.
        wanted: also for few features, and on the CPU where there is no GPU.
    """
    import torch

    from side_ray.search.device.kernel import DeviceKernel, devices_for

    if not wanted and (features.size < FEW or not torch.cuda.is_available()):
        return None
    devices = devices_for(features) or ([torch.device("cpu")] if wanted else [])
    return DeviceKernel(features, ids, metric, devices) if devices else None
