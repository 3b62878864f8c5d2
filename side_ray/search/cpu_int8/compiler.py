"""The search's inner loops, which numpy can only take in several passes over memory; compiled by numba on first use.

None holds the GIL. A compiled function is kept on disk until its own file changes, so none calls a function of another file.
"""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """`function` in machine code; sums are taken in lanes (`reassoc`), in an order that depends on their length alone."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to write a cache
        return njit(**options)(function)
