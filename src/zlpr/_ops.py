"""The few primitives the array API standard lacks, or that one library does badly.

Each has one generic form in standard calls; where a library has a faster call for the same thing, a small table
names it, and a test holds every fast form to the generic one. Functions that end in an underscore may overwrite
their first argument, which must be the caller's own temporary: use the returned array.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from zlpr import _array
from zlpr._array import Array

_FastForms = dict[str, Callable[..., Array]]


def _has_graph(x: Array) -> bool:
    return bool(getattr(x, "requires_grad", False))


def _in_place(
    update: Callable[[Array, Any], Array], pure: Callable[[Array, Any], Array]
) -> Callable[..., Array]:
    def apply_(x: Array, y: Any) -> Array:
        if type(x) is np.ndarray or not (_has_graph(x) or _has_graph(y)):
            return update(x, y)
        return pure(x, y)

    return apply_


multiply_ = _in_place(operator.imul, operator.mul)
add_ = _in_place(operator.iadd, operator.add)
subtract_ = _in_place(operator.isub, operator.sub)

_EXP_: _FastForms = {
    "numpy": lambda x: np.exp(x, out=x) if type(x) is np.ndarray else np.exp(x),
    "torch": lambda x: x.exp() if _has_graph(x) else x.exp_(),
}


def exp_(x: Array) -> Array:
    """Exponential of the caller's own temporary, in its memory where the library can."""
    fast = _EXP_.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).exp(x)


_TAYLOR = {4: 10, 8: 16}


def _jax_expm1(x: Array) -> Array:
    """JAX: XLA's is off by 5 ulp near 0, where the series has all its digits."""
    near = clip(x, -0.5, 0.5)
    highest, *others = (1 / math.factorial(k) for k in reversed(range(2, _TAYLOR[_array.itemsize(x)])))
    terms = highest * near
    for coefficient in others[:-1]:
        terms = (terms + coefficient) * near
    series = near + near * near * (terms + others[-1])
    return where(near == x, series, _array.namespace(x).expm1(x), x)


_EXPM1: _FastForms = {"jax": _jax_expm1}


def expm1(x: Array) -> Array:
    """``exp(x) - 1`` with its digits near 0."""
    fast = _EXPM1.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).expm1(x)


_COPY: _FastForms = {
    "numpy": lambda x: x.copy(),
    "torch": lambda x: x.clone(memory_format=sys.modules["torch"].contiguous_format),
}


def copied(x: Array, buffer: Array | None) -> Array:
    """A temporary with the values of `x`, row after row, in the memory of `buffer` where there is one."""
    if buffer is None:
        fast = _COPY.get(_array.library(x))
        return fast(x) if fast else _array.namespace(x).asarray(x, copy=True)
    buffer[...] = x
    return buffer


_MOVE_: _FastForms = {"torch": lambda x, y, weight: x.lerp_(y, weight)}


def move_(x: Array, y: Array, weight: Any) -> Array:
    """Return x + weight * (y - x) of the caller's own `x`, without a graph; the weight is a number or a 0-d array."""
    fast = _MOVE_.get(_array.library(x))
    if fast and isinstance(weight, float):
        return fast(x, y, weight)
    change = y - x
    change *= weight
    x += change
    return x


_MOVE_TO_SQUARE_: _FastForms = {
    "torch": lambda x, y, weight: x.mul_(1.0 - weight).addcmul_(y, y, value=weight),
}


def move_to_square_(x: Array, y: Array, weight: Any) -> Array:
    """Return x + weight * (y * y - x) of the caller's own `x`, without a graph."""
    fast = _MOVE_TO_SQUARE_.get(_array.library(x))
    if fast and isinstance(weight, float):
        return fast(x, y, weight)
    change = y * y
    change -= x
    change *= weight
    x += change
    return x


_RELU: _FastForms = {
    "numpy": lambda x: np.maximum(x, 0),
    "torch": lambda x: x.relu(),
    "cupy": lambda x: _array.namespace(x).maximum(x, 0),
}


def relu(x: Array) -> Array:
    """max(x, 0), elementwise; nan stays nan."""
    fast = _RELU.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).maximum(x, _array.namespace(x).zeros_like(x))


_CLIP: _FastForms = {
    "numpy": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "torch": lambda x, low, high: x.clamp(low, high),
    "jax": lambda x, low, high: _array.namespace(x).clip(x, low, high),
}


def clip(x: Array, low: float, high: float) -> Array:
    """Each entry, or the nearer end of the interval; nan stays nan."""
    fast = _CLIP.get(_array.library(x))
    return fast(x, low, high) if fast else where(x < low, low, where(x > high, high, x, x), x)


_SUM_WIDTH = 256
_SUM_LANES = 32
_ones: dict[tuple[Any, ...], Array] = {}


def _dot_with_ones(x: Array) -> Array:
    """NumPy: a BLAS dot a row is faster than a sum, and never threaded."""
    key = (x.dtype, x.shape[-1])
    ones = _ones.get(key)
    if ones is None:
        ones = _ones[key] = np.ones(x.shape[-1], dtype=x.dtype)
    return np.vecdot(x, ones)


def _numpy_sum(x: Array) -> Array:
    width = x.shape[-1]
    if width <= _SUM_LANES:
        return _dot_with_ones(x)
    if width > _SUM_WIDTH:
        pieces, rest = divmod(width, _SUM_WIDTH)
        body = np.reshape(x[..., : width - rest], (*x.shape[:-1], pieces, _SUM_WIDTH))
        total = _numpy_sum(_numpy_sum(body))
    else:
        rest = width % _SUM_LANES  # BLAS adds what fills no register one by one
        total = _dot_with_ones(x[..., : width - rest])
    return total + _numpy_sum(x[..., width - rest :]) if rest else total


_SHORT = 128


def _jax_sum(x: Array) -> Array:
    """JAX: XLA adds short rows one by one; long ones in lanes, in a third of the time that halves take."""
    return _sum_of_halves(x) if x.shape[-1] <= _SHORT else _array.namespace(x).sum(x, axis=-1)


def _sum_of_halves(x: Array) -> Array:
    """JAX, PyTorch: a short sum of theirs adds one by one."""
    xp = _array.namespace(x)
    x, odd = _halved(x, 4)
    total = xp.sum(x, axis=-1)
    return total if odd is None else total + odd


def _halved(x: Array, width: int) -> tuple[Array, Array | None]:
    """The last axis added half to half until no wider than that, and the sum of what was odd on the way, if any."""
    odd = None
    while x.shape[-1] > width:
        half, is_odd = divmod(x.shape[-1], 2)
        if is_odd:
            odd = x[..., -1] if odd is None else odd + x[..., -1]
        x = x[..., :half] + x[..., half : 2 * half]
    return x, odd


def _torch_sum(x: Array) -> Array:
    """PyTorch: float32 in float64 where the device has it; the rest by halves."""
    if _array.itemsize(x) == 4 and x.device.type != "mps":
        return x.sum(-1, dtype=_array.namespace(x).float64).to(x.dtype)
    return _sum_of_halves(x)


_SUM: _FastForms = {"numpy": _numpy_sum, "jax": _jax_sum, "torch": _torch_sum}


def row_sum(x: Array) -> Array:
    """Sum along the last axis, (..., C) to (...), to a few ulp however long the row.

    No accumulator takes many terms one after the other: rows are summed in pieces, and the pieces in the same way.
    """
    fast = _SUM.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).sum(x, axis=-1)


def ordered_row_sum(x: Array) -> Array:
    """Sum along the last axis, (..., C) to (...), in an order that depends on C alone: the same bits everywhere.

    Not for terms that are products of a compiled program, unless `settled`.
    """
    if not x.shape[-1]:
        return row_sum(x)
    x, odd = _halved(x, 1)
    return x[..., 0] if odd is None else x[..., 0] + odd


_BITS = {4: np.int32, 8: np.int64}
_WORTH_SELECTING = 1 << 14  # below, five calls cost more than they save


def _numpy_where(condition: Array, x: Array | float, y: Array | float, like: Array) -> Array:
    """NumPy: its `where` takes a branch an entry; selecting bit by bit takes none, and a third of the time."""
    if condition.size < _WORTH_SELECTING or like.dtype.itemsize not in _BITS:
        return np.where(condition, x, y).astype(like.dtype, copy=False)
    integer = _BITS[like.dtype.itemsize]
    chosen, other = (np.asarray(v, dtype=like.dtype).view(integer) for v in (x, y))
    mask = condition.astype(integer)
    if _is_zero(chosen):
        mask -= 1
        return (mask & other).view(like.dtype)
    np.negative(mask, out=mask)
    if _is_zero(other):
        return (mask & chosen).view(like.dtype)
    return np.bitwise_xor(mask & (chosen ^ other), other).view(like.dtype)


def _is_zero(bits: Array) -> bool:
    return bits.ndim == 0 and not bits


_WHERE: _FastForms = {"numpy": _numpy_where}


def where(condition: Array, x: Array | float, y: Array | float, like: Array) -> Array:
    """``where`` with Python scalars allowed on both sides, in the dtype of `like`."""
    fast = _WHERE.get(_array.library(like))
    if fast:
        return fast(condition, x, y, like)
    xp = _array.namespace(like)

    def as_array(value: Array | float) -> Array:
        return (
            xp.full((), value, dtype=like.dtype, device=_array.device(like))
            if isinstance(value, float)
            else value
        )

    return xp.where(condition, as_array(x), as_array(y))


def _numpy_where_few(
    condition: Array, function: Callable[..., Array], otherwise: Array, *operands: Array
) -> Array:
    """NumPy: what counts at a few entries is computed for these alone; overwrites the rest's temporary."""
    at = _FLAT_POSITIONS["numpy"](condition)
    if 2 * at.size > condition.size or condition.size < _WORTH_SELECTING:
        return _numpy_where(condition, function(*operands), otherwise, otherwise)
    found = np.ascontiguousarray(otherwise)  # a temporary has the layout of what it was made of
    found.reshape(-1)[at] = function(*(x.reshape(-1)[at] for x in operands))
    return found


_WHERE_FEW: _FastForms = {"numpy": _numpy_where_few}


def where_few(condition: Array, function: Callable[..., Array], otherwise: Array, *operands: Array) -> Array:
    """``function`` of the operands where a condition holds, which is seldom, and elsewhere the caller's temporary."""
    fast = _WHERE_FEW.get(_array.library(otherwise))
    if fast:
        return fast(condition, function, otherwise, *operands)
    return where(condition, function(*operands), otherwise, otherwise)


def _jax_stacked(x: Array, y: Array) -> Array:
    """JAX: XLA fuses a choice with what comes before and after it, and stores what is concatenated."""
    xp = _array.namespace(x)
    side = xp.reshape(xp.arange(2), (2, *(1,) * x.ndim))
    return xp.where(side == 0, x, y)


_STACKED: _FastForms = {"jax": _jax_stacked}


def stacked(x: Array, y: Array) -> Array:
    """Two arrays of one shape one above the other, (...) to (2, ...)."""
    fast = _STACKED.get(_array.library(x))
    return fast(x, y) if fast else _array.namespace(x).stack((x, y), axis=0)


_FLAT_POSITIONS: _FastForms = {"numpy": lambda mask: mask.ravel().nonzero()[0]}


def flat_positions(mask: Array) -> Array:
    """Indices of the True entries of a host array, counted along its flattened form."""
    fast = _FLAT_POSITIONS.get(_array.library(mask))
    if fast:
        return fast(mask)
    return _array.namespace(mask).nonzero(_array.namespace(mask).reshape(mask, (-1,)))[0]


def distinct(x: Array) -> Array:
    """The entries of a host vector in order, each once; the standard's ``unique_values`` promises no order."""
    xp = _array.namespace(x)
    ordered = xp.sort(x)
    first = xp.ones(x.shape, dtype=xp.bool, device=_array.device(x))
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


_SEGMENT_SUM: _FastForms = {
    "numpy": lambda x, segments, n: np.bincount(segments, weights=x, minlength=n).astype(x.dtype),
    "torch": lambda x, segments, n: x.new_zeros(n).index_add_(0, segments, x),
}


def segment_sum(x: Array, segments: Array, n: int) -> Array:
    """Sums of the entries of a host vector that carry the same segment number, (n,)."""
    fast = _SEGMENT_SUM.get(_array.library(x))
    if fast:
        return fast(x, segments, n)
    xp = _array.namespace(x)
    same = xp.arange(n, device=_array.device(x))[:, None] == segments[None, :]
    return row_sum(xp.astype(same, x.dtype) * x[None, :])


_MAX: _FastForms = {"numpy": lambda x: x.max()}


def largest(x: Array) -> Array:
    """Largest of all entries, 0-d; an array without entries has none."""
    fast = _MAX.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).max(x)


def lies_in(x: Array, low: float, high: float) -> bool:
    """Whether all entries of a host array are in the interval, nan being nowhere; it must have an entry."""
    return bool(low <= x.min()) and bool(x.max() <= high)


_EXTENT: _FastForms = {"numpy": lambda x: max(x.max(), -x.min())}


def extent(x: Array) -> Array:
    """Largest magnitude of all entries, 0-d, nan or larger where one is nan; an array without entries has none."""
    fast = _EXTENT.get(_array.library(x))
    return fast(x) if fast else largest(_array.namespace(x).abs(x))


def row_max(x: Array) -> Array:
    """Largest entry of each row, (B, C) to (B,); -inf for a row without entries."""
    xp = _array.namespace(x)
    if x.shape[-1] == 0:
        return xp.full(x.shape[:-1], -math.inf, dtype=x.dtype, device=_array.device(x))
    return xp.max(x, axis=-1)


def _jax_argmax(x: Array) -> Array:
    """JAX: the least of the places where the largest is, as numbers of the dtype; XLA's own takes five times as long.

    Of a row whose largest is nan, the last.
    """
    xp, width = _array.namespace(x), x.shape[-1]
    if width > 2 ** (24 if _array.itemsize(x) == 4 else 53):
        return xp.argmax(x, axis=-1)
    places = xp.arange(width, dtype=x.dtype)
    at_largest = xp.where(x == xp.max(x, axis=-1, keepdims=True), places, xp.full_like(places, width - 1))
    return xp.astype(xp.min(at_largest, axis=-1), xp.int32)


_ARGMAX: _FastForms = {"jax": _jax_argmax}


def argmax(x: Array) -> Array:
    """Column of the first of the largest entries of each row, (B, C) to (B,), where none is nan."""
    fast = _ARGMAX.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).argmax(x, axis=-1)


def first_largest(x: Array) -> Array:
    """True at the first of the largest entries of each row, (B, C)."""
    xp = _array.namespace(x)
    if x.shape[-1] == 0:
        return xp.zeros(x.shape, dtype=xp.bool, device=_array.device(x))
    return _at(x, argmax(x))


def centred(shares: Array, v: Array, rest: Array | None = None) -> Array:
    """``v`` less its mean under the shares of each row, (B, C), to its digits where one share is nearly all.

    The shares sum to 1, or with `rest`, (B,), which is that of a 0. All is measured from the entry of the largest.
    """
    if 0 in v.shape:
        return v
    columns = argmax(shares)
    start = chosen(v, columns)
    if rest is not None:
        start = where(rest > chosen(shares, columns), 0.0, start, start)
    v = v - start[:, None]
    mean = row_sum(shares * v)
    return v - (mean if rest is None else mean - rest * start)[:, None]


_row_numbers = functools.lru_cache(maxsize=64)(np.arange)


_CHOSEN: _FastForms = {
    "numpy": lambda x, columns: x[_row_numbers(x.shape[0]), columns],
    "torch": lambda x, columns: x.gather(1, columns.long()[:, None])[:, 0],
    "jax": lambda x, columns: _array.namespace(x).take_along_axis(x, columns[:, None], axis=-1)[:, 0],
}


def chosen(x: Array, columns: Array) -> Array:
    """One entry of each row, (B, C) and (B,) to (B,)."""
    fast = _CHOSEN.get(_array.library(x))
    return fast(x, columns) if fast else row_sum(where(_at(x, columns), x, 0.0, x))


def _put_by_index(x: Array, columns: Array, values: Array | float) -> Array:
    x[_row_numbers(x.shape[0]), columns] = values
    return x


_REPLACED_: _FastForms = {"numpy": _put_by_index}


def replaced_(x: Array, columns: Array, values: Array | float) -> Array:
    """Rows with one entry of each replaced, by a number or by an entry of ``values`` (B,)."""
    fast = _REPLACED_.get(_array.library(x))
    if fast:
        return fast(x, columns, values)
    return where(_at(x, columns), values if isinstance(values, float) else values[:, None], x, x)


def _jax_top(x: Array, count: int) -> tuple[Array, Array]:
    """JAX: XLA's sort takes twenty times as long."""
    values, columns = sys.modules["jax"].lax.top_k(x, count)
    return values, columns


_TOP: _FastForms = {
    "numpy": lambda x, count: -np.sort(_numpy_least(-x, count), axis=-1),
    "torch": lambda x, count: x.topk(count).values,
    "jax": lambda x, count: _jax_top(x, count)[0],
}


def _numpy_least(x: Array, count: int) -> Array:
    return np.partition(x, count - 1, axis=-1)[:, :count] if count < x.shape[-1] else x


def top(x: Array, count: int) -> Array:
    """So many largest entries of each row, falling, (B, C) to (B, count), of rows without nan."""
    fast = _TOP.get(_array.library(x))
    return fast(x, count) if fast else -_array.namespace(x).sort(-x, axis=-1, stable=False)[:, :count]


_FIRST_TRUE: _FastForms = {
    "jax": lambda mask, count: _jax_top(_array.namespace(mask).astype(mask, np.float32), count)[1],
}


def first_true(mask: Array, count: int) -> Array:
    """Columns of the first True entries of each row, and then of the first others, (B, C) to (B, count)."""
    fast = _FIRST_TRUE.get(_array.library(mask))
    if fast:
        return fast(mask, count)
    xp = _array.namespace(mask)
    return xp.argsort(xp.astype(~mask, xp.int8), axis=-1, stable=True)[:, :count]


def _put_by_indices(x: Array, columns: Array, values: Array) -> Array:
    x[_array.namespace(x).arange(x.shape[0])[:, None], columns] = values
    return x


_PUT_: _FastForms = {
    "numpy": _put_by_indices,
    "cupy": _put_by_indices,
    "torch": lambda x, columns, values: x.scatter(1, columns.long(), values),
    "jax": lambda x, columns, values: x.at[_array.namespace(x).arange(x.shape[0])[:, None], columns].set(
        values, unique_indices=True
    ),
}


def put_(x: Array, columns: Array, values: Array) -> Array:
    """Rows with some entries of each replaced, at columns that are different, (B, K) of them and of the values."""
    fast = _PUT_.get(_array.library(x))
    if fast:
        return fast(x, columns, values)
    for k in range(columns.shape[1]):
        x = replaced_(x, columns[:, k], values[:, k])
    return x


def _at(x: Array, columns: Array) -> Array:
    """True at one column of each row, (B, C)."""
    xp = _array.namespace(x)
    return xp.arange(x.shape[-1], dtype=columns.dtype, device=_array.device(x))[None, :] == columns[:, None]


def exact_difference(x: Array, y: Array, *, is_finite: bool = False) -> tuple[Array, Array]:
    """The rounded difference and its rounding error: their sum is exact (Knuth's TwoSum). No error at infinity.

    Saying that all is known to be finite spares the question.
    """
    difference = x - y
    taken = x - difference
    kept = difference + taken
    error = (x - kept) + (taken - y)
    if is_finite:
        return difference, error
    return difference, where(_array.namespace(x).isfinite(error), error, 0.0, error)


def exact_product(x: Array, factor: float, *, is_finite: bool = False) -> tuple[Array, Array | None]:
    """A rounded product and what it lacks of the exact one, itself rounded; None for a power of two, or for 0.

    Both are taken in halves (Dekker), each of half the digits, whose products are exact, and the product is the sum of
    these: a compiler that contracts a product with the addition after it would otherwise count the error twice. Lacks
    nothing at infinity.
    """
    if math.frexp(abs(factor))[0] in (0.0, 0.5):
        return x * factor, None
    scalar = np.float32 if _array.itemsize(x) == 4 else np.float64
    rounded = float(scalar(factor))
    factor_high, factor_low = (float(part) for part in _halves(scalar(rounded), _array.itemsize(x)))
    high, low = _halves(x, _array.itemsize(x))
    parts = [high * factor_high, low * factor_high]
    if factor_low:
        parts += [high * factor_low, low * factor_low]
    if factor != rounded:
        parts.append(x * (factor - rounded))
    return _sum_in_order(parts, None if is_finite else x * factor)


def exact_square(x: Array, *, is_finite: bool = False) -> tuple[Array, Array]:
    """A rounded square and its rounding error, as `exact_product` has it; no digit of twice as many is lost."""
    high, low = _halves(x, _array.itemsize(x))
    total, error = exact_difference(high * high, -2.0 * (high * low), is_finite=is_finite)
    error = error + low * low
    if is_finite:
        return total, error
    finite = _array.namespace(x).isfinite(error)
    return where(finite, total, x * x, total), where(finite, error, 0.0, error)


def _sum_in_order(parts: list[Array], plain: Array | None) -> tuple[Array, Array]:
    """The sum of numbers, the first far above the others, and its error, part by part; plain where infinite."""
    lead, *rest = parts
    total = lead + functools.reduce(operator.add, rest)
    error = functools.reduce(operator.add, rest, lead - total)
    if plain is None:
        return total, error
    finite = _array.namespace(lead).isfinite(error)
    return where(finite, total, plain, total), where(finite, error, 0.0, error)


def _halves(x: Any, itemsize: int) -> tuple[Any, Any]:
    """Two numbers of half the digits each, whose sum is x."""
    spread = x * (2.0**12 + 1 if itemsize == 4 else 2.0**27 + 1)
    high = spread - (spread - x)
    return high, x - high


def nudged_(terms: Array, low: Array, *, is_small: bool = False) -> Array:
    """Exponentials times ``1 + low``, for what rounding took off their exponents; overwrites the terms.

    Not where that is no small number, since such an exponent has no digit behind the point.
    """
    if not is_small:
        low = where(_array.namespace(low).abs(low) < 0.5, low, 0.0, low)
    return add_(terms, terms * low)


def exact_quotient(x: Array, divisor: float) -> tuple[Array, Array]:
    """The rounded quotient, and what it lacks of the exact one, itself rounded. Lacks nothing at infinity.

    The remainder comes from a product in halves (Dekker), each of half the digits, whose parts are exact.
    """
    scalar = np.float32 if _array.itemsize(x) == 4 else np.float64
    rounded = float(scalar(divisor))
    divisor_high, divisor_low = (float(part) for part in _halves(scalar(rounded), _array.itemsize(x)))
    quotient = x / rounded
    high, low = _halves(quotient, _array.itemsize(x))
    product = quotient * rounded
    error = ((high * divisor_high - product) + high * divisor_low + low * divisor_high) + low * divisor_low
    lacking = (((x - product) - error) - quotient * (divisor - rounded)) / rounded
    return quotient, where(_array.namespace(x).isfinite(lacking), lacking, 0.0, lacking)


_LANES = 16  # entries of a group, of whose least ones the few smallest are sought first
_ROUNDS = 16  # so many smallest are found one by one, more by sorting


def smallest(x: Array, k: int) -> Array:
    """Indices of the k smallest entries of each row, (B, C) to (B, k), in no order.

    Of equal entries the first, but any of them on the host, where the caller can count them. A row that holds no nan.
    """
    fast = _SMALLEST.get(_array.library(x)) if _array.place(x) == "host" else None
    if fast:
        return fast(x, k)
    xp, width = _array.namespace(x), x.shape[-1]
    groups = width // _LANES
    if groups <= 2 * k:
        return _first_smallest(x, k)
    least = xp.min(xp.reshape(x[:, : groups * _LANES], (x.shape[0], groups, _LANES)), axis=-1)
    chosen = xp.sort(_first_smallest(least, k), axis=-1)  # so that the first of equals stays the first
    steps = xp.arange(_LANES, dtype=chosen.dtype, device=_array.device(x))
    return _smallest_of(x, chosen[:, :, None] * _LANES + steps[None, None, :], groups * _LANES, k)


def _strided_smallest(x: Array, k: int) -> Array:
    """NumPy: the least of entries far apart are found in one pass without branches."""
    width = x.shape[-1]
    groups = width // _LANES
    if width == k:
        return np.broadcast_to(np.arange(k), x.shape)
    if groups <= 8 * k:
        return np.argpartition(x, k - 1, axis=-1)[:, :k]
    least = np.min(x[:, : groups * _LANES].reshape(x.shape[0], _LANES, groups), axis=1)
    members = (_numpy_few_smallest(least, k)[:, :, None] + groups * np.arange(_LANES)).reshape(x.shape[0], -1)
    if groups * _LANES < width:
        rest = np.broadcast_to(np.arange(groups * _LANES, width), (x.shape[0], width - groups * _LANES))
        members = np.concatenate([members, rest], axis=-1)
    rows = np.arange(x.shape[0])[:, None]
    return members[rows, _numpy_few_smallest(x[rows, members], k)]


def _numpy_few_smallest(x: Array, k: int) -> Array:
    """Of a temporary, which it overwrites."""
    if k > _ROUNDS:
        return np.argpartition(x, k - 1, axis=-1)[:, :k]
    np.minimum(x, np.finfo(x.dtype).max, out=x)  # what was taken is infinite, and not taken again
    rows, found = np.arange(x.shape[0]), np.empty((x.shape[0], k), dtype=np.intp)
    for i in range(k):
        found[:, i] = x.argmin(axis=-1)
        x[rows, found[:, i]] = math.inf
    return found


_SMALLEST: _FastForms = {
    "numpy": _strided_smallest,
    "torch": lambda x, k: x.topk(k, largest=False, sorted=False).indices,
}


def _smallest_of(x: Array, members: Array, start: int, k: int) -> Array:
    """Of these members of each row, (B, groups, lanes), and what follows from `start` on, the k smallest."""
    xp = _array.namespace(x)
    members = xp.reshape(members, (x.shape[0], -1))
    if start < x.shape[-1]:
        rest = xp.arange(start, x.shape[-1], dtype=members.dtype, device=_array.device(x))
        members = xp.concat([members, xp.broadcast_to(rest, (x.shape[0], x.shape[-1] - start))], axis=-1)
    found = _first_smallest(xp.take_along_axis(x, members, axis=-1), k)
    return xp.take_along_axis(members, found, axis=-1)


def _first_smallest(x: Array, k: int) -> Array:
    xp = _array.namespace(x)
    if k > _ROUNDS:
        return xp.argsort(x, axis=-1, stable=True)[:, :k]
    highest = float(xp.finfo(x.dtype).max)
    x = where(x == math.inf, highest, x, x)  # what was taken is infinite, and not taken again
    rounds = []
    for _ in range(k):
        rounds.append(xp.argmin(x, axis=-1))
        x = replaced_(x, rounds[-1], math.inf)
    return xp.stack(rounds, axis=-1)


_TARGET_SUM: _FastForms = {
    "numpy": lambda rows, targets, n: np.stack(
        [np.bincount(targets, weights=column, minlength=n) for column in rows.T], axis=-1
    ).astype(rows.dtype, copy=False),
}


def sum_by_target(rows: Array, targets: Array, n: int) -> Array:
    """Sums of the rows that carry the same target, (m, d) and (m,) to (n, d), in the same order at every call.

    In standard calls, without scattering, whose order is left to chance on GPUs: rows are sorted by target and
    summed within each target's run, twice as many at every step.
    """
    fast = _TARGET_SUM.get(_array.library(rows))
    if fast:
        return fast(rows, targets, n)
    xp = _array.namespace(rows)
    order = xp.argsort(targets, stable=True)
    targets, rows = xp.take(targets, order), xp.take(rows, order, axis=0)
    step = 1
    while step < rows.shape[0]:
        same = (targets[step:] == targets[:-step])[:, None]
        rows = xp.concat(
            [rows[:step, ...], rows[step:, ...] + where(same, rows[:-step, ...], 0.0, rows)], axis=0
        )
        step *= 2
    every = xp.arange(n, dtype=targets.dtype, device=_array.device(targets))
    ends = xp.searchsorted(targets, every, side="right")
    starts = xp.searchsorted(targets, every, side="left")
    last = xp.take(rows, xp.where(ends > starts, ends - 1, xp.zeros_like(ends)), axis=0)
    return where((ends > starts)[:, None], last, 0.0, last)


_PRODUCT: _FastForms = {
    "jax": lambda x, y: _array.namespace(x).matmul(x, y, precision="highest"),  # it may take fewer digits
}


def product(x: Array, y: Array) -> Array:
    """Matrix product in the full precision of the dtype."""
    fast = _PRODUCT.get(_array.library(x))
    return fast(x, y) if fast else _array.namespace(x).matmul(x, y)


def _whole_distances(x: Array, y: Array, term: Callable[[Array], Array], join: str) -> Array:
    """JAX: a compiler that fuses a reduction with what it reduces."""
    terms = term(x[:, None, :] - y[None, :, :])
    return getattr(_array.namespace(x), "sum" if join == "add" else "max")(terms, axis=-1)


_PAIRS: _FastForms = {"jax": _whole_distances}


def pairs(x: Array, y: Array, term: Callable[[Array], Array], join: str) -> Array:
    """``term(x_i - y_j)`` of all pairs of rows, (m, d) and (n, d), joined over the columns: (m, n).

    They are joined by "add" or "maximum". `term` may overwrite its argument. A column at a time, in two arrays of the
    result's size.
    """
    fast = _PAIRS.get(_array.library(x))
    if fast:
        return fast(x, y, term, join)
    total = term(x[:, 0][:, None] - y[:, 0][None, :])
    for i in range(1, x.shape[-1]):
        new = term(x[:, i][:, None] - y[:, i][None, :])
        total = add_(total, new) if join == "add" else _array.namespace(x).maximum(total, new)
    return total


def exact_row_sum(x: Array) -> tuple[Array, Array]:
    """Sum along the last axis and what rounding took off it, itself rounded."""
    error = _array.namespace(x).zeros_like(x)
    while x.shape[-1] > 1:
        half, odd = divmod(x.shape[-1], 2)
        total, lost = exact_difference(x[..., :half], -x[..., half : 2 * half])
        lost = lost + (error[..., :half] + error[..., half : 2 * half])
        if odd:
            xp = _array.namespace(x)
            total = xp.concat([total, x[..., -1:]], axis=-1)
            lost = xp.concat([lost, error[..., -1:]], axis=-1)
        x, error = total, lost
    total, lost = exact_difference(x[..., 0], -error[..., 0])
    return total, lost


def _jax_settled(x: Array) -> Array:
    """JAX: XLA computes a cheap operand anew in every use, and contracts a product with the subtraction after it.

    A choice between two stops that, where an optimization barrier, which is gone by then, does not.
    """
    return where(x == x, x, math.nan, x)


_SETTLED: _FastForms = {"jax": _jax_settled}


def settled(x: Array) -> Array:
    """`x`, rounded once and for all, so that differences of its entries are those of what was rounded."""
    fast = _SETTLED.get(_array.library(x))
    return fast(x) if fast else x


_RATIO: _FastForms = {
    "jax": lambda x, y: (
        x / where(x == x, y, math.nan, x)
    ),  # XLA multiplies by the inverse of what is broadcast
}


def ratio(x: Array, y: Array) -> Array:
    """``x / y``, rounded once also where `y` is broadcast."""
    fast = _RATIO.get(_array.library(x))
    return fast(x, y) if fast else x / y


def _torch_root(x: Array) -> Array:
    """PyTorch: on the CPU one root in two hundred is off by a unit; the remainder says which way."""
    root = x.sqrt()
    square, error = exact_square(root)
    return root + ((x - square) - error) / (2.0 * where(root == 0, 1.0, root, root))


_ROOT: _FastForms = {"torch": _torch_root}


def root(x: Array) -> Array:
    """Square root, correctly rounded, of numbers whose own squares are in the range of the dtype."""
    fast = _ROOT.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).sqrt(x)


def can_branch(x: Array) -> bool:
    """Whether `either` can choose by a value without bringing it from a device."""
    return _array.place(x) == "host" or _array.library(x) == "jax"


def either(condition: Array, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """``yes(*operands)`` where a 0-d condition holds, else ``no(*operands)``; only one of them runs."""
    if _array.library(condition) == "jax":
        return sys.modules["jax"].lax.cond(condition, yes, no, *operands)
    return yes(*operands) if bool(condition) else no(*operands)


def _jax_map(kernel: Callable[..., Any], rows: int, inputs: tuple[Array | None, ...]) -> tuple[Array, ...]:
    """JAX: a loop inside the compiled program; the last block is filled up with the first rows."""
    jax = sys.modules["jax"]
    xp, total = jax.numpy, next(x for x in inputs if x is not None).shape[0]
    blocks = -(-total // rows)
    at = xp.reshape(xp.arange(blocks * rows) % total, (blocks, rows))
    results = jax.lax.map(lambda places: kernel(*(None if x is None else x[places] for x in inputs)), at)
    return tuple(xp.reshape(r, (blocks * rows, *r.shape[2:]))[:total] for r in results)


_MAP_BLOCKS: dict[str, Callable[..., tuple[Array, ...]]] = {"jax": _jax_map}


def map_blocks(
    kernel: Callable[..., tuple[Array, ...]], rows: int, inputs: tuple[Array | None, ...]
) -> tuple[Array, ...]:
    """``kernel`` applied to so many rows of the inputs at a time; its results, aligned with the rows, put together."""
    fast = _MAP_BLOCKS.get(_array.library(inputs[0]))
    if fast:
        return fast(kernel, rows, inputs)
    results: list[Array] = []
    total = inputs[0].shape[0]  # type: ignore[union-attr]  # the first input is an array
    for start in range(0, total, rows):
        block = (slice(start, min(start + rows, total)), ...)
        parts = kernel(*(None if x is None else x[block] for x in inputs))
        if not results:
            xp, device = _array.namespace(parts[0]), _array.device(parts[0])
            results = [xp.empty((total, *p.shape[1:]), dtype=p.dtype, device=device) for p in parts]
        for whole, part in zip(results, parts, strict=True):
            whole[block] = part
    return tuple(results)


def _marked_by_scatter(indices: Array, valid: Array, width: int) -> Array:
    """PyTorch: invalid places count nothing, so that it does not matter where they point."""
    counts = valid.new_zeros((indices.shape[0], width), dtype=_array.namespace(indices).int32)
    at = (indices * valid).long()
    return counts.scatter_add_(1, at, valid.to(counts.dtype)) > 0


def _marked_by_assignment(indices: Array, valid: Array, width: int) -> Array:
    """CuPy: invalid places point at a column that is dropped."""
    xp = _array.namespace(indices)
    marks = xp.zeros((indices.shape[0], width + 1), dtype=bool)
    marks[xp.arange(indices.shape[0])[:, None], xp.where(valid, indices, width)] = True
    return marks[:, :width]


def _marked_by_update(indices: Array, valid: Array, width: int) -> Array:
    """JAX: what points outside is dropped."""
    xp = _array.namespace(indices)
    rows = xp.arange(indices.shape[0])[:, None]
    marks = xp.zeros((indices.shape[0], width), dtype=bool)
    return marks.at[rows, xp.where(valid, indices, width)].set(True, mode="drop")


def _marked_by_comparison(indices: Array, valid: Array, width: int) -> Array:
    xp = _array.namespace(indices)
    every = xp.arange(width, device=_array.device(indices))[None, :]
    marks = xp.zeros((indices.shape[0], width), dtype=xp.bool, device=_array.device(indices))
    for k in range(indices.shape[1]):
        marks = marks | ((every == indices[:, k : k + 1]) & valid[:, k : k + 1])
    return marks


_MARKED: _FastForms = {
    "torch": _marked_by_scatter,
    "cupy": _marked_by_assignment,
    "jax": _marked_by_update,
}


def marked(indices: Array, valid: Array, width: int) -> Array:
    """True at the valid indices of each row, (B, K) to (B, width)."""
    return _MARKED.get(_array.library(indices), _marked_by_comparison)(indices, valid, width)


_LOG_MAX = {4: math.log(float(np.finfo(np.float32).max)), 8: math.log(float(np.finfo(np.float64).max))}


def log_max(x: Array) -> float:
    """Log of the largest finite number of the dtype of `x`, float32 or float64."""
    return _LOG_MAX[_array.itemsize(x)]


_Arrays = tuple[Array, ...]
Step = Callable[[_Arrays, _Arrays], tuple[_Arrays, Array]]


@functools.cache  # a loop is compiled once for a step that is a function of a module
def _jax_loop(step: Step, limit: int) -> Callable[[_Arrays, _Arrays], _Arrays]:
    """JAX: a loop of the compiler's, which stops by itself."""
    jax = sys.modules["jax"]
    xp = jax.numpy

    def loop(state: _Arrays, given: _Arrays) -> _Arrays:
        def going_on(carry: tuple[Array, Array, _Arrays]) -> Array:
            return (carry[0] < limit) & ~carry[1]

        def next_of(carry: tuple[Array, Array, _Arrays]) -> tuple[Array, Array, _Arrays]:
            new_state, done = step(carry[2], given)
            return carry[0] + 1, done, new_state

        start = (xp.zeros((), dtype=xp.int32), xp.zeros((), dtype=bool), state)
        return jax.lax.while_loop(going_on, next_of, start)[2]  # type: ignore[no-any-return]  # JAX is untyped to us

    return jax.jit(loop)  # type: ignore[no-any-return]  # likewise


_ITERATE: dict[str, Callable[..., _Arrays]] = {
    "jax": lambda step, state, given, limit: _jax_loop(step, limit)(state, given)
}


def iterate(step: Step, state: _Arrays, given: _Arrays, limit: int) -> _Arrays:
    """The state after ``step(state, given)`` has said that it is done, or after `limit` steps.

    A step gives the next state and whether that is the last, a 0-d bool array. Where no value can be read, all steps
    are made: one after the last must not do harm.
    """
    fast = _ITERATE.get(_array.library(state[0]))
    if fast:
        return fast(step, state, given, limit)
    for _ in range(limit):
        state, done = step(state, given)
        if _array.place(state[0]) == "host" and bool(done):
            break
    return state
