"""The search in int8 for processors with AVX-512 VNNI, by numba and LLVM instructions; needs `pip install side-ray[fast]`.

The rest of the engine does without this package: `search.kernels.KERNELS` has the only line that names it, and deleting both
changes the speed of a search, not its results. It has two kernels: `PixelKernel` for l2 on pixel values, whose scores are
exact, and `QuantizedKernel` for inner products of unit vectors.

**What memory it touches.** The functions of `tiles` that are marked `@intrinsic` read and write through plain addresses, so
that nothing but their callers, all in `tiles`, keeps them inside an array:

- They read the prepared queries and training images (`_dots`), the products of a strip of queries, the slack and the factors
  of the training images of a block (`_visit`), and the entries of one query (`_sift`, `_reaching`, `_largest`).
- They write to the strip of products, or to a buffer of one tile at its edges (`_dots`), to the lanes of one query, and to
  the entries of one query from its first free place on (`_visit`, `_sift`).
- `_visit` and `_sift` write up to `LANES` places beyond the last entry that they store, and `_visit` writes as many places as
  it is given scores. Each query therefore has `SPARE` places beyond its capacity, and lists have `LANES` places at their end.

With the environment variable SIDE_RAY_CHECK_BOUNDS=1 every such range is compared with the size of its array before the
instruction runs, and an IndexError is raised where it does not fit. The check is compiled in, so set it before the import.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from side_ray.search.neighbors import Metric

if TYPE_CHECKING:
    from side_ray.search.kernels import Kernel


def make(features: np.ndarray, ids: np.ndarray, metric: Metric, threads: int, wanted: bool) -> "Kernel | None":
    """The kernel for float32 features [n, d], or None where they do not fit or numba is missing.

    Args:
        ids: not used; candidates are ordered by the caller.
        threads: that prepare the features.
        wanted: also where float32 is faster, as on a processor without the instructions, or for few features.
    """
    if find_spec("numba") is None or find_spec("llvmlite") is None:
        return None
    from side_ray.search.cpu_int8.kernels import fitting

    kernel = fitting(features, metric, wanted)
    return None if kernel is None else kernel(features, metric, threads)
