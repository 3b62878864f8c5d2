"""Exact nearest neighbours and counts: `Index` is the engine, everything else here is what it takes and returns.

The rest of the code imports from this package only, never from its modules. `Index` is loaded when it is first used, because
it needs torch; the other names need numpy only.

An engine that finds candidates faster on some machine is a sub-package with a `make` function and one line in
`kernels.KERNELS`; `cpu_int8/` is the model. It may change the speed of a search, never a result.
"""

from typing import TYPE_CHECKING, Any

from side_ray.search.neighbors import (
    Counts,
    Edge,
    Engine,
    Levels,
    Metric,
    Neighbors,
    closeness_of,
    distances,
    merge,
    normalize,
)

if TYPE_CHECKING:
    from side_ray.search.groups import Index

__all__ = [
    "Counts",
    "Edge",
    "Engine",
    "Index",
    "Levels",
    "Metric",
    "Neighbors",
    "closeness_of",
    "distances",
    "merge",
    "normalize",
]


def __getattr__(name: str) -> Any:
    if name != "Index":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from side_ray.search.groups import Index

    return Index
