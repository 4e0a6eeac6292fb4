"""The p-norm of differences: its powers, its exact order, its value without overflow, and its slope."""

from __future__ import annotations

import math
from typing import Any

from zlpr import _array, _ops
from zlpr._array import Array

_SMALL_POWERS, _LARGE_POWERS = {4: 2.0**-90, 8: 2.0**-900}, {4: 2.0**120, 8: 2.0**1000}
_SCALES = {4: (2.0**-30, 2.0**80, 2.0**40), 8: (2.0**-400, 2.0**600, 2.0**400)}


def eps(x: Array) -> float:
    """Distance of 1 from the next number of the dtype of `x`."""
    return 2.0**-23 if _array.itemsize(x) == 4 else 2.0**-52


def trusted(x: Array) -> tuple[float, float]:
    """Between these, a sum of powers has lost nothing to underflow or overflow."""
    return _SMALL_POWERS[_array.itemsize(x)], _LARGE_POWERS[_array.itemsize(x)]


def scale(largest: Array) -> Array:
    """A power of two that brings a number from the ends of its dtype's range near 1, and 1 for all others."""
    low, up, high = _SCALES[_array.itemsize(largest)]
    one = _array.namespace(largest).ones_like(largest)
    return _ops.where(
        (largest < low) & (largest > 0), up, _ops.where(largest > high, 1 / up, one, largest), largest
    )


def powers(gaps: Array, p: float) -> Array:
    """Sum of the p-th powers along the last axis, or the largest for p = inf. Overwrites the gaps."""
    xp = _array.namespace(gaps)
    if math.isinf(p):
        return xp.max(xp.abs(gaps), axis=-1)
    return _ops.row_sum(_term(gaps, p))


def pair_powers(x: Array, y: Array, p: float) -> Array:
    """The powers of all pairs of rows, (m, d) and (n, d) to (m, n)."""
    return _ops.pairs(x, y, lambda gaps: _term(gaps, p), "maximum" if math.isinf(p) else "add")


def _term(gaps: Array, p: float) -> Array:
    if p == 2.0:
        return _ops.multiply_(gaps, gaps)
    size = _array.namespace(gaps).abs(gaps)
    return size if p == 1.0 or math.isinf(p) else size**p


def root(powers: Array, p: float) -> Array:
    """The distance of a power."""
    if p == 2.0:
        return _array.namespace(powers).sqrt(powers)
    return powers if p == 1.0 or math.isinf(p) else powers ** (1.0 / p)


def power(distances: Array, p: float) -> Array:
    """The power of a distance."""
    if p == 2.0:
        return distances * distances
    return distances if p == 1.0 or math.isinf(p) else distances**p


def exact_keys(gaps: Array, lost: Array, p: float) -> tuple[Array, ...]:
    """Sort keys of differences, (..., d), given with what rounding took off them; the last one is the distance.

    Keys before the last tell apart equal roundings of it. Terms are added in the order of their size: vectors that
    are permutations of each other have the same keys.
    """
    xp = _array.namespace(gaps)
    down = gaps < 0
    size, lost = xp.abs(gaps), xp.where(down, -lost, lost)
    largest = xp.max(size, axis=-1)
    if math.isinf(p):
        return xp.max(_ops.where(size == largest[..., None], lost, -math.inf, lost), axis=-1), largest
    if p == 1.0:
        head, tail = _ops.exact_row_sum(xp.sort(size, axis=-1))
        head, tail = _ops.exact_difference(head, -(tail + _ops.row_sum(xp.sort(lost, axis=-1))))
        return tail, head
    factor = scale(largest)
    size, lost = size * factor[..., None], lost * factor[..., None]
    if p != 2.0:
        total = _ops.row_sum(xp.sort(size, axis=-1) ** p)
        return total, root(total, p) / factor
    square, rounding = _ops.exact_square(size)
    head, tail = _ops.exact_row_sum(xp.sort(square, axis=-1))
    tail = tail + _ops.row_sum(xp.sort(rounding + 2.0 * size * lost, axis=-1))
    head, tail = _ops.exact_difference(head, -tail)
    return tail, head, xp.sqrt(head) / factor


def norm(gaps: Array, p: float) -> Array:
    """The p-norm along the last axis, without overflow or underflow on the way."""
    xp = _array.namespace(gaps)
    size = xp.abs(gaps)
    largest = xp.max(size, axis=-1)
    if math.isinf(p):
        return largest
    if p == 1.0:
        return _ops.row_sum(xp.sort(size, axis=-1))
    largest = _array.detached(largest)
    positive = (largest > 0) & (largest < math.inf)
    factor = 1.0 / scale(largest) if p == 2.0 else _ops.where(positive, largest, 1.0, largest)
    ratio = size / factor[..., None]
    total = _ops.row_sum(xp.sort(ratio * ratio if p == 2.0 else ratio**p, axis=-1))
    safe = _ops.where(total > 0, total, 1.0, total)  # the root has no slope at 0
    return _ops.where(total > 0, root(safe, p) * factor, total, total)


def slope(gaps: Array, distances: Array, p: float) -> Array:
    """The gradient of the norm with respect to the gaps, (..., d); 0 at 0. One of the largest counts for p = inf."""
    xp = _array.namespace(gaps)
    if p == 1.0:
        return xp.sign(gaps)
    if math.isinf(p):
        size = xp.abs(gaps)
        first = _ops.first_largest(xp.reshape(size, (-1, size.shape[-1])))
        return _ops.where(xp.reshape(first, size.shape), xp.sign(gaps), 0.0, gaps)
    ratio = gaps / _ops.where(distances > 0, distances, 1.0, distances)[..., None]
    return ratio if p == 2.0 else xp.sign(gaps) * xp.abs(ratio) ** (p - 1.0)


def log_unit_ball(d: int, p: float) -> float:
    """Log volume of the unit ball of the p-norm in d dimensions."""
    if math.isinf(p):
        return d * math.log(2.0)
    return d * (math.log(2.0) + math.lgamma(1.0 + 1.0 / p)) - math.lgamma(1.0 + d / p)


def checked_p(p: Any) -> float:
    """The order of the norm as a float; a ValueError below 1."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not p >= 1:
        raise ValueError(f"p must be a number of at least 1, or inf, got {p!r}")
    return float(p)
