"""Values of single pairs of a query and a training image, bit for bit those of `exact.values_of_pairs`.

`numpy.sum` adds a contiguous row by pairwise summation (Higham 1993): it halves rows that are longer than `LEAF`, and adds
what is left in eight partial sums. The order is written out here, because a sum in another order has other last bits.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from side_ray.search.cpu_int8.compiler import CHECKED, compiled_as_written

PARTIAL = 8
"""Partial sums of a leaf."""
LEAF = 128
"""Terms that are not halved any more."""


@intrinsic
def _partial_sums(typing, query, image, groups):
    """The sum of the products of float64 and float32 values at two addresses, `groups` (at least one) times `PARTIAL` of them."""

    def generate(context, builder, signature, arguments):
        query, image, groups = arguments
        index, double, single = (
            ir.IntType(64),
            ir.VectorType(ir.DoubleType(), PARTIAL),
            ir.VectorType(ir.FloatType(), PARTIAL),
        )

        def load(address, group, kind, size):
            place = builder.add(address, builder.mul(group, index(PARTIAL * size)))
            return builder.load(builder.inttoptr(place, ir.PointerType()), typ=kind, align=1)

        def terms(group):
            return builder.fmul(load(query, group, double, 8), builder.fpext(load(image, group, single, 4), double))

        first = terms(index(0))
        before, loop, body, after = builder.block, *(builder.append_basic_block() for _ in range(3))
        builder.branch(loop)
        builder.position_at_end(loop)
        group, sums = builder.phi(index), builder.phi(double)
        builder.cbranch(builder.icmp_signed("<", group, groups), body, after)
        builder.position_at_end(body)
        added, following = builder.fadd(sums, terms(group)), builder.add(group, index(1))
        builder.branch(loop)
        for phi, start, later in ((group, index(1), following), (sums, first, added)):
            phi.add_incoming(start, before)
            phi.add_incoming(later, body)
        builder.position_at_end(after)
        left = [builder.extract_element(sums, ir.IntType(32)(lane)) for lane in range(PARTIAL)]
        while len(left) > 1:
            left = [builder.fadd(*two) for two in zip(left[::2], left[1::2], strict=True)]
        return left[0]

    return types.float64(types.intp, types.intp, types.intp), generate


@compiled_as_written
def _product(query: np.ndarray, image: np.ndarray, leaves: np.ndarray, sums: np.ndarray) -> float:
    """The inner product of float64 [d] and float32 [d]; `leaves` as of `_leaves`, `sums` scratch memory for as many."""
    first, top = 0, -1
    for leaf in range(leaves.shape[0]):
        stop, groups, total = first + leaves[leaf, 0], leaves[leaf, 0] // PARTIAL, 0.0
        if groups:
            total = _partial_sums(query.ctypes.data + 8 * first, image.ctypes.data + 4 * first, groups)
        for j in range(first + PARTIAL * groups, stop):
            total += query[j] * np.float64(image[j])
        first, top = stop, top + 1
        sums[top] = total
        for _ in range(leaves[leaf, 1]):
            top -= 1
            sums[top] += sums[top + 1]
    return 0.0 + sums[0]  # as `numpy.sum`, which begins at 0: never -0


@compiled_as_written
def _inner_products(
    queries: np.ndarray, train: np.ndarray, count: np.ndarray, columns: np.ndarray, leaves: np.ndarray, out: np.ndarray
) -> None:
    query, sums, pair = np.empty(queries.shape[1]), np.empty(leaves.shape[0]), 0
    if CHECKED and (train.shape[1] != query.size or leaves[:, 0].sum() != query.size):
        raise IndexError("a product would read beyond a row of features")
    for i in range(count.size):
        query[:] = queries[i]
        for _ in range(count[i]):
            if CHECKED and not 0 <= columns[pair] < train.shape[0]:
                raise IndexError("a product would read beyond the features")
            value = _product(query, train[columns[pair]], leaves, sums)
            out[pair] = min(max(value, -1.0), 1.0)
            pair += 1


def inner_products(queries: np.ndarray, train: np.ndarray, count: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Inner products in float64, clipped to [-1, 1]; float64 [m].

    Args:
        queries, train: float32 [q, d] and [n, d], contiguous.
        count: int64 [q], how many pairs each query has.
        columns: int [m], the training rows of the pairs, query after query.
    """
    out = np.empty(columns.size)
    _inner_products(queries, train, count, columns, np.array(_leaves(queries.shape[1])), out)
    return out


def _leaves(size: int) -> list[tuple[int, int]]:
    """The terms of each leaf, and how many times the last two sums are added up after it. (numba keeps no recursion on disk.)"""
    if size <= LEAF:
        return [(size, 0)]
    half = size // 2 // PARTIAL * PARTIAL
    *others, (last, additions) = _leaves(size - half)
    return [*_leaves(half), *others, (last, additions + 1)]
