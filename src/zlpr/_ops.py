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
from zlpr._array import Array, Namespace

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


def ones(xp: Namespace, shape: tuple[int, ...], like: Array, dtype: Any = None) -> Array:
    """Ones of the dtype (unless another is given) and on the device of `like`."""
    return xp.ones(shape, dtype=dtype or like.dtype, device=_array.device(like))


_SUM_WIDTH = 512
_ones_cache: dict[tuple[Any, ...], Array] = {}


def _unit_vector(x: Array, n: int) -> Array:
    if _array.library(x) != "numpy":
        return ones(_array.namespace(x), (n,), x)
    key = (x.dtype, n)
    if key not in _ones_cache:
        _ones_cache[key] = np.ones(n, dtype=x.dtype)
    return _ones_cache[key]


_DOT: _FastForms = {
    "numpy": np.vecdot,  # a BLAS dot a row: never threaded, so never waiting for a busy core
    "jax": lambda x, v: _array.namespace(x).matmul(
        x, v, precision="highest"
    ),  # TF32 would keep 3 digits on a GPU
}


def _dot(x: Array, v: Array) -> Array:
    fast = _DOT.get(_array.library(x))
    return fast(x, v) if fast else _array.namespace(x).matmul(x, v)


def row_sum(x: Array) -> Array:
    """Sum along the last axis, (..., C) to (...), to about 2 ulp however long the row.

    Rows are summed as products with a vector of ones over pieces of 512 columns, whose partial sums are summed in the
    same way: several accumulators a piece keep the rounding error small, and it is faster than a plain sum.
    """
    width = x.shape[-1]
    if width <= 2 * _SUM_WIDTH:
        return _dot(x, _unit_vector(x, width))
    pieces, rest = divmod(width, _SUM_WIDTH)
    body = _array.namespace(x).reshape(x[..., : width - rest], (*x.shape[:-1], pieces, _SUM_WIDTH))
    total = row_sum(_dot(body, _unit_vector(x, _SUM_WIDTH)))
    return total + _dot(x[..., width - rest :], _unit_vector(x, rest)) if rest else total


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


def first_largest(x: Array) -> Array:
    """True at the first of the largest entries of each row, (B, C)."""
    xp = _array.namespace(x)
    at = xp.argmax(x, axis=-1)
    return xp.arange(x.shape[-1], dtype=at.dtype, device=_array.device(x))[None, :] == at[:, None]


def exact_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """X - y as rounded, and the rounding error, so that their sum is exact (Knuth's TwoSum)."""
    difference = x - y
    taken = x - difference
    kept = difference + taken
    return difference, (x - kept) + (taken - y)


_LOG_MAX = {4: math.log(float(np.finfo(np.float32).max)), 8: math.log(float(np.finfo(np.float64).max))}


def log_max(x: Array) -> float:
    """Log of the largest finite number of the dtype of `x`, float32 or float64."""
    return _LOG_MAX[_array.itemsize(x)]
