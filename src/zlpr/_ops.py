"""The few primitives the array API standard lacks, or that one library does badly.

Each has one generic form in standard calls; where a library has a faster call for the same thing, a small table
names it, and a test holds every fast form to the generic one. Functions that end in an underscore may overwrite
their first argument, which must be the caller's own temporary: use the returned array.
"""

from __future__ import annotations

import math
import operator
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
        return pure(x, y) if _has_graph(x) or _has_graph(y) else update(x, y)

    return apply_


multiply_ = _in_place(operator.imul, operator.mul)
add_ = _in_place(operator.iadd, operator.add)
subtract_ = _in_place(operator.isub, operator.sub)

_EXP_: _FastForms = {
    "numpy": lambda x: np.exp(x, out=x),
    "torch": lambda x: x.exp() if _has_graph(x) else x.exp_(),
}


def exp_(x: Array) -> Array:
    """Exponential of the caller's own temporary, in its memory where the library can."""
    fast = _EXP_.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).exp(x)


_RELU: _FastForms = {
    "numpy": lambda x: np.maximum(x, 0),
    "torch": lambda x: x.relu(),
    "cupy": lambda x: _array.namespace(x).maximum(x, 0),
}


def relu(x: Array) -> Array:
    """max(x, 0), elementwise; nan stays nan."""
    fast = _RELU.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).maximum(x, _array.namespace(x).zeros_like(x))


_SUM_WIDTH = 256
_SUM_LANES = 32
_ones: dict[tuple[Any, ...], Array] = {}


def _dot_with_ones(x: Array) -> Array:
    """NumPy: a BLAS dot a row is faster than a sum, and never threaded."""
    key = (x.dtype, x.shape[-1])
    if key not in _ones:
        _ones[key] = np.ones(x.shape[-1], dtype=x.dtype)
    return np.vecdot(x, _ones[key])


def _numpy_sum(x: Array) -> Array:
    width = x.shape[-1]
    if width > _SUM_WIDTH:
        pieces, rest = divmod(width, _SUM_WIDTH)
        body = np.reshape(x[..., : width - rest], (*x.shape[:-1], pieces, _SUM_WIDTH))
        total = _numpy_sum(_numpy_sum(body))
    else:
        rest = width % _SUM_LANES if width > _SUM_LANES else 0  # BLAS adds what fills no register one by one
        total = _dot_with_ones(x[..., : width - rest])
    return total + _numpy_sum(x[..., width - rest :]) if rest else total


def _jax_sum(x: Array) -> Array:
    """JAX: a sum that XLA fuses with what it sums adds one by one, so halves are added until few terms are left."""
    xp = _array.namespace(x)
    odd = None
    while x.shape[-1] > 16:
        half, is_odd = divmod(x.shape[-1], 2)
        if is_odd:
            odd = x[..., -1] if odd is None else odd + x[..., -1]
        x = x[..., :half] + x[..., half : 2 * half]
    total = xp.sum(x, axis=-1)
    return total if odd is None else total + odd


_SUM: _FastForms = {"numpy": _numpy_sum, "jax": _jax_sum}


def row_sum(x: Array) -> Array:
    """Sum along the last axis, (..., C) to (...), to a few ulp however long the row.

    No accumulator takes many terms one after the other: rows are summed in pieces, and the pieces in the same way.
    """
    fast = _SUM.get(_array.library(x))
    return fast(x) if fast else _array.namespace(x).sum(x, axis=-1)


def where(condition: Array, x: Array | float, y: Array | float, like: Array) -> Array:
    """``where`` with Python scalars allowed on both sides, in the dtype of `like`."""
    xp = _array.namespace(like)

    def as_array(value: Array | float) -> Array:
        return (
            xp.full((), value, dtype=like.dtype, device=_array.device(like))
            if isinstance(value, float)
            else value
        )

    return xp.where(condition, as_array(x), as_array(y))


def flat_positions(mask: Array) -> Array:
    """Indices of the True entries of a host array, counted along its flattened form."""
    return _array.namespace(mask).nonzero(_array.namespace(mask).reshape(mask, (-1,)))[0]


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


def row_max(x: Array) -> Array:
    """Largest entry of each row, (B, C) to (B,); -inf for a row without entries."""
    xp = _array.namespace(x)
    if x.shape[-1] == 0:
        return xp.full(x.shape[:-1], -math.inf, dtype=x.dtype, device=_array.device(x))
    return xp.max(x, axis=-1)


def first_largest(x: Array) -> Array:
    """True at the first of the largest entries of each row, (B, C)."""
    xp = _array.namespace(x)
    if x.shape[-1] == 0:
        return xp.zeros(x.shape, dtype=xp.bool, device=_array.device(x))
    at = xp.argmax(x, axis=-1)
    return xp.arange(x.shape[-1], dtype=at.dtype, device=_array.device(x))[None, :] == at[:, None]


def exact_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """The rounded difference and its rounding error: their sum is exact (Knuth's TwoSum). No error at infinity."""
    difference = x - y
    taken = x - difference
    kept = difference + taken
    error = (x - kept) + (taken - y)
    return difference, where(_array.namespace(x).isfinite(error), error, 0.0, error)


_LOG_MAX = {4: math.log(float(np.finfo(np.float32).max)), 8: math.log(float(np.finfo(np.float64).max))}


def log_max(x: Array) -> float:
    """Log of the largest finite number of the dtype of `x`, float32 or float64."""
    return _LOG_MAX[_array.itemsize(x)]
