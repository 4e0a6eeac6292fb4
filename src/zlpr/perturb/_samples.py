"""Sizes and directions of samples: norms over all axes but that of the batch, safe from overflow and underflow.

All sums go in one fixed order, and everything else is correctly rounded arithmetic of single entries: equal gradients
give equal bits on every library.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

from zlpr import _array, _bridges, _constants, _ops, _walk
from zlpr._array import Array

Norm: TypeAlias = Literal["l2", "linf"]
Axis: TypeAlias = int | tuple[int, ...] | None
Bounds: TypeAlias = tuple[Any, Any] | None


class Polar(NamedTuple):
    """An array as `scale` times `length` times `direction`; both sizes broadcast against it, one a sample.

    The scale is the largest magnitude of the sample, the length at least 1. All are 0 where the sample is. Infinite
    entries share the direction among them, which is the limit.
    """

    scale: Array
    length: Array
    direction: Array


def polar(x: Array, axes: tuple[int, ...]) -> Polar:
    """Size and direction of every sample, in the dtype to compute in."""
    parts: Polar = _bridges.compiled(x, _polar, x, axes)
    return parts


def _polar(x: Array, axes: tuple[int, ...]) -> Polar:
    xp = _array.namespace(x)
    x = _array.as_dtype(x, _array.compute_dtype(x))
    if 0 in x.shape:
        return Polar(x, x, x)
    with _walk.quiet(x):
        scale = xp.max(xp.abs(x), axis=axes, keepdims=True)
        parts = _ops.ratio(x, _ops.where(scale == 0, 1.0, scale, scale))
        at_infinity = _ops.where(x == math.inf, 1.0, _ops.where(x == -math.inf, -1.0, 0.0, x), x)
        parts = xp.where(scale == math.inf, at_infinity, parts)
        squares = _ops.settled(parts * parts)
        length = _ops.root(total(squares, axes))
        return Polar(scale, length, _ops.ratio(parts, _ops.where(length == 0, 1.0, length, length)))


def root_mean_square(x: Array, axes: tuple[int, ...]) -> Array:
    """Typical magnitude of the entries of each sample, 1 for a sample of zeros; the axes stay."""
    size = polar(x, axes)
    if 0 in x.shape:
        return size.scale
    typical = size.scale * (size.length * math.prod([x.shape[i] for i in axes]) ** -0.5)
    return _ops.where(typical == 0, 1.0, typical, typical)


def total(x: Array, axes: tuple[int, ...]) -> Array:
    """Sum over axes, which stay as axes of length 1, in an order that depends on the shape alone."""
    xp = _array.namespace(x)
    kept = [i for i in range(x.ndim) if i not in axes]
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    rows = xp.permute_dims(x, (*kept, *axes)) if kept != list(range(len(kept))) else x
    rows = xp.reshape(rows, (*(x.shape[i] for i in kept), math.prod([x.shape[i] for i in axes])))
    return xp.reshape(_ops.ordered_row_sum(rows), shape)


def signs(x: Array) -> Array:
    """1, -1 or 0 as the entries' signs; nan stays nan. Not `sign`, with which CuPy waits for the device."""
    return _ops.where(x > 0, 1.0, _ops.where(x < 0, -1.0, x, x), x)


def sample_axes(x: Array, axis: Axis) -> tuple[int, ...]:
    """The axes of one sample, none of them negative: all but the first, or all of a vector, unless told."""
    if axis is None:
        return tuple(range(1 if x.ndim > 1 else 0, x.ndim))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(f"axis must name axes of x, got {axis!r} for the shape {tuple(x.shape)}")
    return tuple(sorted({a % x.ndim for a in axes}))


class Ball:
    """The perturbations that are allowed: within a radius of zero, and where x may not leave a box, within that."""

    def __init__(self, x: Array, radius: Any, norm: Norm, axis: Axis, bounds: Bounds) -> None:
        if norm not in ("l2", "linf"):
            raise ValueError(f'norm must be "l2" or "linf", not {norm!r}')
        self.x, self.norm = x, norm
        self.axes = sample_axes(x, axis)
        self.radius = checked_size("epsilon", radius)
        self.bounds = _checked_bounds(bounds, x)

    def steepest(self, gradient: Array) -> Array:
        """The direction of steepest ascent, of norm 1 in each sample; 0 where the gradient is."""
        if self.norm == "l2":
            return polar(gradient, self.axes).direction
        return signs(_array.as_dtype(gradient, _array.compute_dtype(gradient)))

    def edge(self, gradient: Array) -> Array:
        """The perturbation of that direction that is as large as is allowed, in the dtype of x."""
        return self.boxed(self.steepest(gradient) * self.radius)

    def projected(self, r: Array) -> Array:
        """The nearest allowed perturbation, in the dtype to compute in, the box aside."""
        r = _array.as_dtype(r, _array.compute_dtype(r))
        xp = _array.namespace(r)
        if self.norm == "linf":
            low = _ops.where(r < -self.radius, -self.radius, r, r)
            return _ops.where(low > self.radius, self.radius, low, r)
        with _walk.quiet(r):
            size = polar(r, self.axes)
            return xp.where(size.scale * size.length <= self.radius, r, size.direction * self.radius)

    def boxed(self, r: Array) -> Array:
        """`r` in the dtype of x, changed where x + r, as it is rounded, would leave the box."""
        r = _ops.settled(_array.as_dtype(r, self.x.dtype))
        if self.bounds is None:
            return r
        low, high = self.bounds
        over, under = self.x + r > high, self.x + r < low
        r = _ops.where(over, high - self.x, _ops.where(under, low - self.x, r, r), r)
        outside = (self.x + r > high) | (self.x + r < low)  # by what rounding the difference took
        return _ops.where(outside, r * (1.0 - float(_array.namespace(r).finfo(r.dtype).eps)), r, r)

    def moved(self, r: Array) -> Array:
        """X with a perturbation."""
        return self.x + _ops.settled(_array.as_dtype(r, self.x.dtype))


def checked_size(name: str, value: Any) -> Any:
    """A number that is not negative, or an array, whose values are not looked at."""
    if _constants.is_number(value) and value >= 0:
        return float(value)
    if not _array.is_array(value):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return value


def checked_step(name: str, value: Any) -> Any:
    """A number above 0, or an array, whose values are not looked at."""
    if _constants.is_number(value) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
    return checked_size(name, value)


def _checked_bounds(bounds: Bounds, x: Array) -> tuple[Any, Any] | None:
    if bounds is None:
        return None
    low, high = bounds
    xp = _array.namespace(x)
    if _array.place(x) == "host" and 0 not in x.shape and not bool(xp.all((x >= low) & (x <= high))):
        raise ValueError("x must lie within bounds before it is perturbed, but has entries outside")
    return low, high


def checked_input(x: Array) -> Array:
    """X as a constant to the library's autograd; a TypeError unless it is a floating array."""
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    return _array.detached(x)
