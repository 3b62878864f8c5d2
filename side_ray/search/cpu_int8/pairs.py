"""Products of single pairs of a query and a training image."""

import numpy as np

from side_ray.search.cpu_int8.compiler import compiled


@compiled
def products(queries: np.ndarray, train: np.ndarray, count: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """Inner products in float32, in any order of summation.

    Args:
        queries, train: float32 [q, d] and [n, d].
        count: int64 [q], how many pairs each query has.
        columns: int [m], the training rows of the pairs, query after query.
        out: float64 [m], written.
    """
    pair = 0
    for i in range(count.size):
        for _ in range(count[i]):
            a, b, total = queries[i], train[columns[pair]], np.float32(0)
            for j in range(a.size):
                total += a[j] * b[j]
            out[pair] = total
            pair += 1
