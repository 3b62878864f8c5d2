"""Loops in machine code, compiled by numba on first use. None of them holds the GIL.

A compiled function is kept on disk until its own file changes, so none calls a function of another file.
"""

import os
from collections.abc import Callable
from typing import Any

from numba import njit

CHECKED = os.environ.get("SIDE_RAY_CHECK_BOUNDS", "0") not in ("", "0")
"""Whether the ranges that are read and written through addresses are checked."""


def compiled(function: Callable[..., Any]) -> Any:
    """`function` in machine code; sums are taken in lanes (`reassoc`), in an order that depends on their length alone."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def compiled_as_written(function: Callable[..., Any]) -> Any:
    """`function` in machine code, with each operation of floats rounded and in its place."""
    return _compiled(function)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=not CHECKED, **options)(function)
    except RuntimeError:  # no directory for a cache can be written
        return njit(**options)(function)
