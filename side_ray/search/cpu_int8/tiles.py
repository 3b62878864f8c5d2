"""int8 products, and the selection of those that can matter while they are still in a processor's cache.

What is here reads and writes through addresses; the package's docstring says which memory. The instructions and the loops
that use them share this file because numba keeps compiled functions on disk by the file that they are written in.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from side_ray.search.cpu_int8.compiler import CHECKED, compiled

LANES = 16
"""int32 sums that one instruction adds to, four products of bytes to each."""
ROWS, WIDTH = 8, 3 * LANES
"""Queries and training rows whose sums fit a processor's registers (24 of 32) together."""
PIECE = 16 * LANES
"""Scores that are taken between two checks whether there is room."""
SPARE = PIECE + LANES
"""Places that a row of entries has beyond its capacity."""
MULTIPLIES = config.CPU_NAME is config.CPU_FEATURES is None and binding.get_host_cpu_features().get("avx512vnni", False)
"""Whether this processor has the instruction that `multiply` is written for."""


@compiled
def _check(inside: bool) -> None:
    """Refuse a range that is not inside its array, where SIDE_RAY_CHECK_BOUNDS asks for it."""
    if CHECKED and not inside:
        raise IndexError("an int8 search would read or write outside of its memory")


@intrinsic
def _dots(typing, queries, stride, base, panel, steps, out, out_stride):
    """Products of `ROWS` queries with a panel of training rows: addresses, strides in bytes, and groups of four values.

    VPDPBUSD (AVX-512 VNNI) multiplies unsigned by signed bytes; its sums wrap and do not saturate. numba has no name for it,
    and LLVM keeps the 24 sums in registers only in a loop of this form.
    """

    def generate(context, builder, signature, arguments):
        queries, stride, base, panel, steps, out, out_stride = arguments
        vectors, word, quads = range(WIDTH // LANES), _kind(_I32, LANES), _kind(ir.IntType(8), 4 * LANES)
        dot = _function(builder, "llvm.x86.avx512.vpdpbusd.512", word, [word, quads, quads])
        shifts = [builder.mul(_I64(row), stride) for row in range(ROWS)]
        start = [_spread(builder, _load(builder, base, _I64(row), _I32, 1), LANES) for row in range(ROWS)]
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        step, sums = builder.phi(_I64), [[builder.phi(word) for _ in vectors] for _ in range(ROWS)]
        there, added = builder.mul(step, _I64(WIDTH)), []
        images = [_load(builder, panel, builder.add(there, _I64(j * LANES)), _I32, LANES) for j in vectors]
        images = [builder.bitcast(image, quads) for image in images]
        for row in range(ROWS):
            value = _spread(builder, _load(builder, builder.add(queries, shifts[row]), step, _I32, 1), LANES)
            value = builder.bitcast(value, quads)
            added.append([builder.call(dot, [sums[row][j], images[j], value]) for j in vectors])
        following = builder.add(step, _I64(1))
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        step.add_incoming(_I64(0), before)
        step.add_incoming(following, loop)
        for row in range(ROWS):
            for j in vectors:
                sums[row][j].add_incoming(start[row], before)
                sums[row][j].add_incoming(added[row][j], loop)
        builder.position_at_end(after)
        for row in range(ROWS):
            place = builder.add(out, builder.mul(_I64(row), out_stride))
            for j in vectors:
                _store(builder, added[row][j], place, _I64(j * LANES))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


if MULTIPLIES:

    @compiled
    def _tile(queries: np.ndarray, base: np.ndarray, panel: np.ndarray, out: np.ndarray) -> None:
        """`multiply` of `ROWS` queries and a panel: int8 [ROWS, d], int32 [ROWS], uint8 [d / 4, WIDTH · 4]."""
        _check(queries.shape[1] == 4 * panel.shape[0] and queries.shape[0] >= ROWS and base.size >= ROWS)
        _check(panel.shape[1] == 4 * WIDTH and out.shape[0] >= ROWS and out.shape[1] >= WIDTH)
        _dots(
            queries.ctypes.data,
            queries.shape[1],
            base.ctypes.data,
            panel.ctypes.data,
            panel.shape[0],
            out.ctypes.data,
            out.strides[0],
        )

else:

    @compiled
    def _tile(queries: np.ndarray, base: np.ndarray, panel: np.ndarray, out: np.ndarray) -> None:
        """The same by plain loops: slow, for tests on processors without the instruction."""
        for row in range(ROWS):
            out[row, :WIDTH] = base[row]
            for step in range(panel.shape[0]):
                for column in range(WIDTH):
                    for byte in range(4):
                        value = np.int32(queries[row, 4 * step + byte]) * np.int32(panel[step, 4 * column + byte])
                        out[row, column] += value


@compiled
def multiply(queries: np.ndarray, base: np.ndarray, panels: np.ndarray, count: int, out: np.ndarray) -> None:
    """int8 products: out[i, j] = base[i] + Σ_c queries[i, c] · (train[j, c] + 128).

    Args:
        queries: int8 [≥ q, d], rows up to a multiple of `ROWS` and d of 4, with zeros.
        base: int32, as many.
        panels: uint8 [P, d / 4, WIDTH · 4]: the bytes of `WIDTH` training rows, plus 128, four of each in turn.
        count: training rows, at most P · WIDTH.
        out: int32 [q, ≥ count], written.
    """
    edge = np.empty((ROWS, WIDTH), np.int32)
    for panel in range(panels.shape[0]):
        first = panel * WIDTH
        columns = min(WIDTH, count - first)
        for i in range(0, out.shape[0], ROWS):
            rows = min(ROWS, out.shape[0] - i)
            whole = rows == ROWS and columns == WIDTH
            _tile(queries[i:], base[i:], panels[panel], out[i:, first:] if whole else edge)
            if not whole:
                out[i : i + rows, first : first + columns] = edge[:rows, :columns]


@intrinsic
def _reaching(typing, values, size, bound):
    """How many of the values at an address, a multiple of `LANES`, are at least `bound`."""

    def generate(context, builder, signature, arguments):
        values, size, bound = arguments
        total = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.for_range_slice(builder, _I64(0), size, _I64(LANES)) as (first, _):
            reached = _compare(builder, _load(builder, values, first, bound.type, LANES), bound, LANES)
            builder.store(builder.add(builder.load(total), _count(builder, reached, LANES)), total)
        return builder.load(total)

    return types.int64(types.intp, types.intp, bound), generate


@intrinsic
def _largest(typing, values, size, least):
    """The largest of the values at an address, a multiple of `LANES`, and of `least`."""

    def generate(context, builder, signature, arguments):
        values, size, least = arguments
        real = least.type == ir.FloatType()
        most = cgutils.alloca_once_value(builder, _spread(builder, least, LANES))
        with cgutils.for_range_slice(builder, _I64(0), size, _I64(LANES)) as (first, _):
            builder.store(_larger(builder, builder.load(most), _load(builder, values, first, least.type, LANES)), most)
        kind = _kind(least.type, LANES)
        name = f"llvm.vector.reduce.{'fmax' if real else 'smax'}.v{LANES}{least.type.intrinsic_name}"
        return builder.call(_function(builder, name, least.type, [kind]), [builder.load(most)])

    return least(types.intp, types.intp, least), generate


@intrinsic
def _visit(typing, values, factors, factor, slack, first, size, lanes, bound, column, columns_end, scores_end):
    """Deal `size` scores out to lanes, and store those that reach `bound` with their slack, and their columns.

    Values are int32. With `factors` alone, int32, a score is twice the value less its factor; with `factor` as well, float32,
    it is the value times both. `values`, `factors` and `slack` are the addresses of a row whose first column is `column`,
    and are read from `first` on; `lanes` and the ends are addresses of what is written. `size` places of the ends are written
    in any case, because a branch here could not be predicted. Returns how many scores are stored.
    """
    pixels = factor == types.none

    def generate(context, builder, signature, arguments):
        values, factors, factor, slack, first, size, lanes, bound, column, columns_end, scores_end = arguments
        real = bound.type == ir.FloatType()
        total = cgutils.alloca_once_value(builder, _I64(0))

        def visit(lane, wide):
            place = builder.add(first, lane)
            value = _load(builder, values, place, _I32, wide)
            if pixels:
                score = builder.sub(builder.add(value, value), _load(builder, factors, place, _I32, wide))
            else:
                scale = builder.fmul(_load(builder, factors, place, bound.type, wide), _spread(builder, factor, wide))
                score = builder.fmul(builder.sitofp(value, scale.type), scale)
            half, held = _load(builder, slack, place, bound.type, wide), _load(builder, lanes, lane, bound.type, wide)
            lower = (builder.fsub if real else builder.sub)(score, half)
            _store(builder, _larger(builder, held, lower), lanes, lane)
            reached = _compare(builder, (builder.fadd if real else builder.add)(score, half), bound, wide)
            number = _spread(builder, builder.add(column, builder.trunc(place, _I32)), wide)
            if wide > 1:
                number = builder.add(number, _numbers(wide))
            end = builder.load(total)
            _store(builder, _packed(builder, score, reached, wide), scores_end, end)
            _store(builder, _packed(builder, number, reached, wide), columns_end, end)
            builder.store(builder.add(end, _count(builder, reached, wide)), total)

        groups = builder.udiv(size, _I64(LANES))
        with cgutils.for_range(builder, groups) as loop:
            visit(builder.mul(loop.index, _I64(LANES)), LANES)
        with cgutils.for_range_slice(builder, builder.mul(groups, _I64(LANES)), size, _I64(1)) as (lane, _):
            visit(lane, 1)
        return builder.load(total)

    address = types.intp
    return types.int64(
        address, factors, factor, address, types.intp, types.intp, address, bound, types.int32, address, address
    ), generate


@intrinsic
def _sift(typing, columns, scores, slack, size, bound, floor, columns_end, scores_end):
    """Of a row's entries, store those whose upper end reaches `bound` and whose lower end does not reach `floor`.

    With None for `floor` the upper end alone decides, with None for `bound` those are stored whose lower end does reach
    `floor`. All but `size`, `bound` and `floor` are addresses; the ends may be the addresses that are read. Returns how many
    are stored; up to `LANES` more places are written.
    """
    kind = floor if bound == types.none else bound

    def generate(context, builder, signature, arguments):
        columns, scores, slack, size, bound, floor, columns_end, scores_end = arguments
        element = ir.FloatType() if kind == types.float32 else _I32
        real, lanes = element == ir.FloatType(), _kind(element, LANES)
        flags = _kind(ir.IntType(1), LANES)
        name = f"llvm.masked.gather.v{LANES}{element.intrinsic_name}.v{LANES}p0"
        addresses = _kind(ir.PointerType(), LANES)
        gather = _function(builder, name, lanes, [addresses, _I32, flags, lanes])
        total = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.for_range_slice(builder, _I64(0), size, _I64(LANES)) as (first, _):
            there = builder.add(_spread(builder, builder.trunc(first, _I32), LANES), _numbers(LANES))
            known = builder.icmp_signed("<", there, _spread(builder, builder.trunc(size, _I32), LANES))
            column, score = _load(builder, columns, first, _I32, LANES), _load(builder, scores, first, element, LANES)
            shift = builder.mul(builder.sext(column, _kind(_I64, LANES)), _spread(builder, _I64(4), LANES))
            place = builder.inttoptr(builder.add(shift, _spread(builder, slack, LANES)), addresses)
            half = builder.call(gather, [place, _I32(4), known, lanes(None if real else 0)])
            if kind == bound_type:
                upper = (builder.fadd if real else builder.add)(score, half)
                known = builder.and_(known, _compare(builder, upper, bound, LANES))
            if floor_type != types.none:
                lower = (builder.fsub if real else builder.sub)(score, half)
                sure = _compare(builder, lower, floor, LANES)
                known = builder.and_(known, builder.not_(sure) if kind == bound_type else sure)
            end = builder.load(total)
            _store(builder, _packed(builder, score, known, LANES), scores_end, end)
            _store(builder, _packed(builder, column, known, LANES), columns_end, end)
            builder.store(builder.add(end, _count(builder, known, LANES)), total)
        return builder.load(total)

    bound_type, floor_type, address = bound, floor, types.intp
    return types.int64(address, address, address, types.intp, bound, floor, address, address), generate


_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _kind(element, wide):
    return element if wide == 1 else ir.VectorType(element, wide)


def _place(builder, address, first):
    return builder.inttoptr(builder.add(address, builder.mul(first, _I64(4))), ir.PointerType())


def _load(builder, address, first, element, wide):
    return builder.load(_place(builder, address, first), typ=_kind(element, wide), align=1)


def _store(builder, values, address, first):
    builder.store(values, _place(builder, address, first), align=1)


def _spread(builder, value, wide):
    if wide == 1:
        return value
    lanes = _kind(value.type, wide)
    one = builder.insert_element(lanes(ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, lanes(ir.Undefined), _kind(_I32, wide)([0] * wide))


def _numbers(wide):
    return _kind(_I32, wide)(list(range(wide)))


def _compare(builder, values, bound, wide):
    if bound.type == ir.FloatType():
        return builder.fcmp_ordered(">=", values, _spread(builder, bound, wide))
    return builder.icmp_signed(">=", values, _spread(builder, bound, wide))


def _larger(builder, a, b):
    element = getattr(a.type, "element", a.type)
    wide = f"v{a.type.count}" if isinstance(a.type, ir.VectorType) else ""
    # Not by `select`, of which LLVM makes a masked store, whose result processors are slow to read again.
    name = f"llvm.{'maxnum' if element == ir.FloatType() else 'smax'}.{wide}{element.intrinsic_name}"
    flags = ("nnan", "nsz") if element == ir.FloatType() else ()
    return builder.call(_function(builder, name, a.type, [a.type, a.type]), [a, b], fastmath=flags)


def _count(builder, flags, wide):
    bits = flags if wide == 1 else builder.ctpop(builder.bitcast(flags, ir.IntType(wide)))
    return builder.zext(bits, _I64)


def _packed(builder, values, flags, wide):
    if wide == 1:
        return values
    name = f"llvm.experimental.vector.compress.v{wide}{values.type.element.intrinsic_name}"
    compress = _function(builder, name, values.type, [values.type, flags.type, values.type])
    return builder.call(compress, [values, flags, values.type(ir.Undefined)])


def _function(builder, name, result, arguments):
    return builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


class Selection(NamedTuple):
    """The entries that are kept of q rows of scores, one for each query.

    The true score lies within `score` ± `slack`, its upper and lower end, up to the query's ε. Arrays are float32 or int32,
    as the scores are, but for those that say otherwise.
    """

    k: int
    slack: np.ndarray
    """[n], of each training row."""
    width: np.ndarray
    """[q], how far a threshold stays below the floor."""
    floor: np.ndarray
    """[q], what k lower ends reach."""
    threshold: np.ndarray
    """[q], what an upper end must reach to be taken."""
    lanes: np.ndarray
    """[q, a multiple of `LANES`, at least two], the largest of the lower ends that were dealt out to each lane.

    If k lanes reach a value, so do k training images; with several lanes for each of the k, few more of them do.
    """
    columns: np.ndarray
    """int32 [q, capacity + `SPARE`], training rows of the scores that were taken."""
    scores: np.ndarray
    """[q, capacity + `SPARE`]."""
    taken: np.ndarray
    """int64 [q], how many."""
    lost: np.ndarray
    """bool [q], rows that had no room."""


@compiled
def _check_entries(kept: Selection, i: int, count: int) -> None:
    """Check the first `count` entries of row i, and the training rows that they name."""
    _check(0 <= i < kept.columns.shape[0] and kept.columns.shape == kept.scores.shape)
    _check(0 <= count <= kept.columns.shape[1] - LANES)
    if CHECKED:
        for column in kept.columns[i, :count]:
            _check(0 <= column < kept.slack.size)


@compiled
def _raise(kept: Selection, i: int, most: int) -> None:
    """Raise the floor of row i to a value that k of its lanes or more reach, where more than `most` reach the old one."""
    _check(0 <= i < kept.lanes.shape[0] and kept.lanes.shape[1] % LANES == 0)
    size, floor, near = kept.lanes.shape[1], kept.floor[i], min(most, kept.k + kept.k // 16)
    place, low = kept.lanes.ctypes.data + 4 * i * size, floor
    reached = _reaching(place, size, low)
    if reached <= most:
        return
    high = _largest(place, size, low)
    if reached == size:
        # The first time: lanes that hold nothing yet are left out.
        low, above = high, 0
        for lane in kept.lanes[i]:
            if lane > floor:
                low, above = min(low, lane), above + 1
        if above < kept.k:
            return
    for _ in range(16):
        middle = kept.lanes.dtype.type(low + 0.5 * (np.float64(high) - np.float64(low)))
        if middle <= low:
            break
        reached = _reaching(place, size, middle)
        if reached < kept.k:
            high = middle
        else:
            low = middle
            if reached <= near:
                break
    kept.floor[i], kept.threshold[i] = low, low - kept.width[i]


@compiled
def _take_row(
    values: np.ndarray,
    factors: int | None,
    factor: float | None,
    i: int,
    start: int,
    kept: Selection,
) -> None:
    """Keep what can matter of the scores of row i and of the training images from `start` on; see `_visit`."""
    if kept.lost[i]:
        return
    row, turn, count = kept.columns.shape[1], kept.lanes.shape[1] - LANES, kept.taken[i]
    _check(start >= 0 and start + values.size <= kept.slack.size)
    _check(0 <= i < kept.lanes.shape[0] and turn > 0 and kept.columns.shape == kept.scores.shape)
    # The first scores of a row have no threshold to reach: one pass sets it, the second stores what reaches it.
    for rest in range(count == 0, -1, -1):
        first = 0
        while first < values.size:
            if count + SPARE > row:
                count = _drop(kept, i, count)
                if count + SPARE > row:
                    kept.lost[i] = True
                    return
            size = min(PIECE, turn - first % turn, values.size - first)
            # Each turn begins at another lane, because the order of the training images may be periodic.
            lane = (start // LANES + first // turn) % LANES + first % turn
            _check(lane + size <= kept.lanes.shape[1] and count + size + LANES <= row and first + size <= values.size)
            more = _visit(
                values.ctypes.data,
                factors,
                factor,
                kept.slack.ctypes.data + 4 * start,
                first,
                size,
                kept.lanes.ctypes.data + 4 * (i * kept.lanes.shape[1] + lane),
                kept.threshold[i],
                np.int32(start),
                kept.columns.ctypes.data + 4 * (i * row + count),
                kept.scores.ctypes.data + 4 * (i * row + count),
            )
            count += 0 if rest else more
            first += size
        _raise(kept, i, 2 * kept.k if count else kept.k)
    kept.taken[i] = count


@compiled
def take_pixels(
    queries: np.ndarray,
    base: np.ndarray,
    panels: np.ndarray,
    norms: np.ndarray,
    strip: np.ndarray,
    start: int,
    kept: Selection,
) -> None:
    """Keep what can matter of a block of t training images, whose scores are 2 · product − norm.

    Args:
        queries, base, panels: see `multiply`.
        norms: int32 [t].
        strip: int32 [any, ≥ t], scratch memory for the products of some queries.
        start: the first training row.
        kept: of all queries, updated; a row that has no room is lost.
    """
    factors = norms.ctypes.data
    for first in range(0, kept.taken.size, strip.shape[0]):
        size = min(strip.shape[0], kept.taken.size - first)
        multiply(queries[first:], base[first:], panels, norms.size, strip[:size])
        for i in range(size):
            _take_row(strip[i, : norms.size], factors, None, first + i, start, kept)


@compiled
def take_quantized(
    queries: np.ndarray,
    base: np.ndarray,
    panels: np.ndarray,
    row_scales: np.ndarray,
    column_scales: np.ndarray,
    strip: np.ndarray,
    start: int,
    kept: Selection,
) -> None:
    """Likewise for scores product · row_scale · column_scale, with float32 `row_scales` [q] and `column_scales` [t]."""
    factors = column_scales.ctypes.data
    for first in range(0, kept.taken.size, strip.shape[0]):
        size = min(strip.shape[0], kept.taken.size - first)
        multiply(queries[first:], base[first:], panels, column_scales.size, strip[:size])
        for i in range(size):
            scale, values = row_scales[first + i], strip[i, : column_scales.size]
            _take_row(values, factors, scale, first + i, start, kept)


@compiled
def _drop(kept: Selection, i: int, count: int) -> int:
    """Keep, in their order, those of the first entries of row i whose upper end reaches the threshold; returns how many."""
    _check_entries(kept, i, count)
    place = 4 * i * kept.columns.shape[1]
    columns, scores = kept.columns.ctypes.data + place, kept.scores.ctypes.data + place
    return _sift(columns, scores, kept.slack.ctypes.data, count, kept.threshold[i], None, columns, scores)


@compiled
def promising(kept: Selection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries whose lower end reaches the floor, which is raised as far as the lanes allow: at least k of each row.

    Returns:
        int64 [q], how many of each row; their columns int32 [m] and scores [m], row after row.
    """
    # All might be listed; memory that is not touched costs nothing.
    most = kept.taken.sum() + LANES
    listed, total = np.empty(kept.taken.size, np.int64), 0
    columns, scores = np.empty(most, kept.columns.dtype), np.empty(most, kept.scores.dtype)
    for i in range(kept.taken.size):
        _raise(kept, i, kept.k)
        _check_entries(kept, i, kept.taken[i])
        _check(total + kept.taken[i] + LANES <= most)
        place = 4 * i * kept.columns.shape[1]
        listed[i] = _sift(
            kept.columns.ctypes.data + place,
            kept.scores.ctypes.data + place,
            kept.slack.ctypes.data,
            kept.taken[i],
            None,
            kept.floor[i],
            columns.ctypes.data + 4 * total,
            scores.ctypes.data + 4 * total,
        )
        total += listed[i]
    return listed, columns[:total], scores[:total]


@compiled
def entries(kept: Selection, bound: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries whose upper end reaches `bound` [q] and whose lower end does not reach `floor` [q]; returned likewise."""
    most = kept.taken.sum() + LANES
    listed, total = np.empty(kept.taken.size, np.int64), 0
    columns, scores = np.empty(most, kept.columns.dtype), np.empty(most, kept.scores.dtype)
    for i in range(kept.taken.size):
        _check_entries(kept, i, kept.taken[i])
        _check(total + kept.taken[i] + LANES <= most)
        place = 4 * i * kept.columns.shape[1]
        listed[i] = _sift(
            kept.columns.ctypes.data + place,
            kept.scores.ctypes.data + place,
            kept.slack.ctypes.data,
            kept.taken[i],
            bound[i],
            floor[i],
            columns.ctypes.data + 4 * total,
            scores.ctypes.data + 4 * total,
        )
        total += listed[i]
    return listed, columns[:total], scores[:total]
