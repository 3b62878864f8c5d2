"""Loops over tiles of scores, and the int8 products that fill them."""

from typing import NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from side_ray.search.cpu_int8.compiler import compiled

LANES = 16
"""int32 sums that one instruction adds to, four products of bytes to each."""
ROWS, WIDTH = 8, 3 * LANES
"""Queries and training rows whose sums fit a processor's registers (24 of 32) together."""
PIECE = 16 * LANES
"""Scores that are taken before it is looked again whether there is room."""
SPARE = PIECE + LANES
"""Places that a row of candidates has beyond its capacity."""
MULTIPLIES = config.CPU_NAME is config.CPU_FEATURES is None and binding.get_host_cpu_features().get("avx512vnni", False)
"""Whether `multiply` runs on this processor."""


@intrinsic
def _dots(typing, queries, stride, base, panel, steps, out, out_stride):
    """Products of `ROWS` queries with a panel of training rows: addresses, strides in bytes, and groups of four values.

    VPDPBUSD (AVX-512 VNNI) multiplies unsigned by signed bytes and wraps, nothing saturates. It is written out here because
    numba has no name for it, and keeps 24 sums in registers only if it is shown how.
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


@compiled
def multiply(queries: np.ndarray, base: np.ndarray, panels: np.ndarray, count: int, out: np.ndarray) -> None:
    """int8 products, where the processor `MULTIPLIES`: out[i, j] = base[i] + Σ_c queries[i, c] · (train[j, c] + 128).

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
            _dots(
                queries[i:].ctypes.data,
                queries.shape[1],
                base[i:].ctypes.data,
                panels[panel].ctypes.data,
                panels.shape[1],
                out[i:, first:].ctypes.data if whole else edge.ctypes.data,
                out.strides[0] if whole else edge.strides[0],
            )
            if not whole:
                out[i : i + rows, first : first + columns] = edge[:rows, :columns]


@compiled
def double_less(tile: np.ndarray, norms: np.ndarray) -> None:
    """tile[i, j] ← 2 · tile[i, j] − norms[j], int32 [q, t] and [t]."""
    for i in range(tile.shape[0]):
        for j in range(tile.shape[1]):
            tile[i, j] = np.int32(np.int32(2) * tile[i, j]) - norms[j]


@compiled
def dequantize(tile: np.ndarray, row_scales: np.ndarray, column_scales: np.ndarray, out: np.ndarray) -> None:
    """out[i, j] = tile[i, j] · row_scales[i] · column_scales[j]; int32 [q, t] → float32 [q, t]."""
    for i in range(tile.shape[0]):
        scale = row_scales[i]
        for j in range(tile.shape[1]):
            out[i, j] = np.float32(tile[i, j]) * (column_scales[j] * scale)


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

    A score is a value as it stands; with `factors` alone, int32, twice the value less its factor; with `factor` as well,
    float32, the value times both. `values`, `factors` and `slack` are the addresses of a row whose first column is `column`,
    and are read from `first` on; `lanes` and the ends are addresses of what is written, `size` places of the latter in any
    case: a branch here could not be predicted. Returns how many are stored.
    """
    plain, pixels = factors == types.none, factor == types.none

    def generate(context, builder, signature, arguments):
        values, factors, factor, slack, first, size, lanes, bound, column, columns_end, scores_end = arguments
        real = bound.type == ir.FloatType()
        total = cgutils.alloca_once_value(builder, _I64(0))

        def visit(lane, wide):
            place = builder.add(first, lane)
            if plain:
                score = _load(builder, values, place, bound.type, wide)
            elif pixels:
                value = _load(builder, values, place, _I32, wide)
                score = builder.sub(builder.add(value, value), _load(builder, factors, place, _I32, wide))
            else:
                scale = builder.fmul(_load(builder, factors, place, bound.type, wide), _spread(builder, factor, wide))
                value = builder.sitofp(_load(builder, values, place, _I32, wide), scale.type)
                score = builder.fmul(value, scale)
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
    `floor`. All but `size`, `bound` and `floor` are addresses; the new place may be the old one. Returns how many are stored;
    up to `LANES` places more are written.
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


class Held(NamedTuple):
    """What q rows of scores have left behind, each of which may be `score` ± `slack`: float32 or int32 but for what is said."""

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

    If k lanes reach a value, so do k training images; and with several lanes for each of the k, there are hardly more.
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
def _raise(held: Held, i: int, most: int) -> None:
    """Raise the floor of row i to a value that k of its lanes or more reach, where more than `most` reach the old one."""
    size, floor, near = held.lanes.shape[1], held.floor[i], min(most, held.k + held.k // 16)
    place, low = held.lanes.ctypes.data + 4 * i * size, floor
    reached = _reaching(place, size, low)
    if reached <= most:
        return
    high = _largest(place, size, low)
    if reached == size:
        # At first: lanes that hold nothing yet tell nothing.
        low, above = high, 0
        for lane in held.lanes[i]:
            if lane > floor:
                low, above = min(low, lane), above + 1
        if above < held.k:
            return
    for _ in range(16):
        middle = held.lanes.dtype.type(low + 0.5 * (np.float64(high) - np.float64(low)))
        if middle <= low:
            break
        reached = _reaching(place, size, middle)
        if reached < held.k:
            high = middle
        else:
            low = middle
            if reached <= near:
                break
    held.floor[i], held.threshold[i] = low, low - held.width[i]


@compiled
def _take_row(
    values: np.ndarray,
    factors: int | None,
    factor: float | None,
    i: int,
    start: int,
    held: Held,
) -> bool:
    """`take` of row i of a tile; for `values`, `factors` and `factor` see `_visit`."""
    if held.lost[i]:
        return False
    row, turn, count, dropped = held.columns.shape[1], held.lanes.shape[1] - LANES, held.taken[i], False
    # The first scores of a row have no threshold to reach: they are dealt out, and then looked at again.
    for rest in range(count == 0, -1, -1):
        first = 0
        while first < values.size:
            if count + SPARE > row:
                count, dropped = _drop(held, i, count), True
                if count + SPARE > row:
                    held.lost[i] = True
                    return dropped
            size = min(PIECE, turn - first % turn, values.size - first)
            # Every turn begins at another lane, as training images may come in an order that repeats.
            lane = i * held.lanes.shape[1] + (start // LANES + first // turn) % LANES + first % turn
            more = _visit(
                values.ctypes.data,
                factors,
                factor,
                held.slack.ctypes.data + 4 * start,
                first,
                size,
                held.lanes.ctypes.data + 4 * lane,
                held.threshold[i],
                np.int32(start),
                held.columns.ctypes.data + 4 * (i * row + count),
                held.scores.ctypes.data + 4 * (i * row + count),
            )
            count += 0 if rest else more
            first += size
        _raise(held, i, 2 * held.k if count else held.k)
    held.taken[i] = count
    return dropped


@compiled
def take(
    tile: np.ndarray,
    start: int,
    held: Held,
) -> bool:
    """Append the scores of a tile that can reach their row's threshold, and raise the thresholds with them.

    Args:
        tile: [q, t] in one piece, float32 or int32.
        start: training row of the tile's first column.
        held: updated.

    Returns:
        Whether entries were dropped to make room.
    """
    dropped = False
    for i in range(tile.shape[0]):
        dropped |= _take_row(tile[i], None, None, i, start, held)
    return dropped


@compiled
def take_pixels(
    queries: np.ndarray,
    base: np.ndarray,
    panels: np.ndarray,
    norms: np.ndarray,
    strip: np.ndarray,
    start: int,
    held: Held,
) -> bool:
    """`take` of the tile that `multiply` and `double_less` make, in strips; int32 `strip` [any, ≥ t] is scratch memory."""
    dropped, factors = False, norms.ctypes.data
    for first in range(0, held.taken.size, strip.shape[0]):
        size = min(strip.shape[0], held.taken.size - first)
        multiply(queries[first:], base[first:], panels, norms.size, strip[:size])
        for i in range(size):
            dropped |= _take_row(strip[i, : norms.size], factors, None, first + i, start, held)
    return dropped


@compiled
def take_quantized(
    queries: np.ndarray,
    base: np.ndarray,
    panels: np.ndarray,
    row_scales: np.ndarray,
    column_scales: np.ndarray,
    strip: np.ndarray,
    start: int,
    held: Held,
) -> bool:
    """`take` of the tile that `multiply` and `dequantize` make, likewise."""
    dropped, factors = False, column_scales.ctypes.data
    for first in range(0, held.taken.size, strip.shape[0]):
        size = min(strip.shape[0], held.taken.size - first)
        multiply(queries[first:], base[first:], panels, column_scales.size, strip[:size])
        for i in range(size):
            scale, values = row_scales[first + i], strip[i, : column_scales.size]
            dropped |= _take_row(values, factors, scale, first + i, start, held)
    return dropped


@compiled
def _drop(held: Held, i: int, count: int) -> int:
    """Keep, in their order, those of the first entries of row i whose upper end reaches the threshold; returns how many."""
    place = 4 * i * held.columns.shape[1]
    columns, scores = held.columns.ctypes.data + place, held.scores.ctypes.data + place
    return _sift(columns, scores, held.slack.ctypes.data, count, held.threshold[i], None, columns, scores)


@compiled
def make_room(held: Held) -> None:
    """Keep what reaches the threshold in every row that is half full."""
    for i in range(held.taken.size):
        if 2 * held.taken[i] > held.columns.shape[1]:
            held.taken[i] = _drop(held, i, held.taken[i])


@compiled
def promising(held: Held) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of what was taken, what surely reaches the floor, which is raised as far as it can be.

    Returns:
        int64 [q], how many of each row; their columns and scores [m], row after row.
    """
    # All might; memory that is not touched costs nothing.
    most = held.taken.sum() + LANES
    listed, total = np.empty(held.taken.size, np.int64), 0
    found, values = np.empty(most, held.columns.dtype), np.empty(most, held.scores.dtype)
    for i in range(held.taken.size):
        _raise(held, i, held.k)
        place = 4 * i * held.columns.shape[1]
        listed[i] = _sift(
            held.columns.ctypes.data + place,
            held.scores.ctypes.data + place,
            held.slack.ctypes.data,
            held.taken[i],
            None,
            held.floor[i],
            found.ctypes.data + 4 * total,
            values.ctypes.data + 4 * total,
        )
        total += listed[i]
    return listed, found[:total], values[:total]


@compiled
def others(held: Held, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is not `promising`, but whose upper end reaches `bound` [q]: int64 [q], how many of each row, and their columns."""
    most = held.taken.sum() + LANES
    listed, total = np.empty(held.taken.size, np.int64), 0
    found, values = np.empty(most, held.columns.dtype), np.empty(held.columns.shape[1], held.scores.dtype)
    for i in range(held.taken.size):
        place = 4 * i * held.columns.shape[1]
        listed[i] = _sift(
            held.columns.ctypes.data + place,
            held.scores.ctypes.data + place,
            held.slack.ctypes.data,
            held.taken[i],
            bound[i],
            held.floor[i],
            found.ctypes.data + 4 * total,
            values.ctypes.data,
        )
        total += listed[i]
    return listed, found[:total]


@compiled
def listed(held: Held, before: np.ndarray, lowest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and places (int64 [m] each) of the entries from `before` int64 [q] on whose score is at least `lowest` [q]."""
    # Mostly there are none, which whole groups tell sooner, with what is left behind the last.
    count, some = held.taken, np.zeros(held.taken.size, np.bool_)
    for i in range(count.size):
        place = held.scores.ctypes.data + 4 * (i * held.scores.shape[1] + before[i])
        some[i] = _reaching(place, (count[i] - before[i] + LANES - 1) // LANES * LANES, lowest[i]) > 0
    most = (count - before)[some].sum()
    rows, places = np.empty(most, np.int64), np.empty(most, np.int64)
    found = 0
    for row in np.flatnonzero(some):
        for c in range(before[row], count[row]):
            if held.scores[row, c] >= lowest[row]:
                rows[found], places[found] = row, c
                found += 1
    return rows[:found], places[:found]
