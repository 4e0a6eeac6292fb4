"""How many points are within a distance of each point, in the maximum norm, exactly for rounded differences.

On a line by bisection of the sorted points, in more dimensions by SciPy's tree for host arrays, else, and in a trace,
where the bisection is long to compile, by comparing all pairs in blocks of bounded memory on the device of the arrays.
All ways ask the same: whether the rounded difference of two coordinates is below, or at most, the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zlpr import _array, _bridges, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _metric, _tree, search


def count_within(
    parts: Sequence[Array], sides: Sequence[Array], strict: bool, valid: Array | None, method: str
) -> Array:
    """Number of points, (n,), whose every part, (n, d_i), is within its side, (n,), of the same point's.

    Of the valid points; one side alone is that of all parts. Each point counts itself, where its sides are positive or
    `strict` is False.
    """
    counts: Array = _bridges.compiled(
        parts[0], _count, tuple(map(_array.detached, parts)), tuple(sides), strict, valid, method
    )
    return counts


def _count(
    parts: tuple[Array, ...], sides: tuple[Array, ...], strict: bool, valid: Array | None, method: str
) -> Array:
    xp = _array.namespace(parts[0])
    if len(sides) == 1:
        parts = (parts[0] if len(parts) == 1 else xp.concat(list(parts), axis=-1),)
        if parts[0].shape[1] == 1 and method == "auto" and _array.place(parts[0]) != "traced":
            return _on_a_line(parts[0][:, 0], sides[0], strict, valid)
        if search.prefers_tree(parts[0], math.inf, method):
            return _by_tree(parts[0], sides[0], strict, valid)
    return _by_comparison(parts, sides, strict, valid)


def _by_comparison(
    parts: tuple[Array, ...], sides: tuple[Array, ...], strict: bool, valid: Array | None
) -> Array:
    xp, count = _array.namespace(parts[0]), len(parts)

    def kernel(*blocks: Array) -> tuple[Array, ...]:
        inside = None if valid is None else valid[None, :]
        for x, side, points in zip(blocks[:count], blocks[count:], parts, strict=True):
            gaps = _metric.pair_powers(x, points, math.inf)
            near = gaps < side[:, None] if strict else gaps <= side[:, None]
            inside = near if inside is None else inside & near
        return (xp.count_nonzero(inside, axis=-1),)

    return _walk.walk_queries(kernel, *parts, *sides, width=3 * parts[0].shape[0])[0]


def _on_a_line(x: Array, side: Array, strict: bool, valid: Array | None) -> Array:
    xp = _array.namespace(x)
    ordered = xp.sort(x if valid is None else _ops.where(valid, x, math.inf, x))

    def apart(values: Array, sign: float) -> Array:
        gaps = sign * (values - x)
        return gaps >= side if strict else gaps > side

    with _walk.quiet(x):
        slack = (
            4.0 * _metric.eps(x) * (xp.abs(x) + side)
        )  # of a sum's rounding: the bounds are sought between
        first = _first_index(ordered, lambda values: ~apart(values, -1.0), x - side - slack, x - side + slack)
        beyond = _first_index(ordered, lambda values: apart(values, 1.0), x + side - slack, x + side + slack)
    inside = beyond - first
    if strict:  # where the side is 0 nothing is inside, and the bounds are those of equal points, crossed
        inside = xp.where(inside < 0, xp.zeros_like(inside), inside)
    return inside


def _first_index(ordered: Array, holds: Callable[[Array], Array], least: Array, most: Array) -> Array:
    """The first place of which a condition holds, once true always true, sought between two values: (n,)."""
    xp, n = _array.namespace(ordered), ordered.shape[0]
    low = xp.searchsorted(ordered, least, side="left")
    high = _array.as_dtype(xp.searchsorted(ordered, most, side="right"), low.dtype)
    on_host = _array.place(ordered) == "host"
    for _ in range(n.bit_length()):
        active = low < high
        if on_host and not bool(xp.any(active)):
            break
        middle = (low + high) // 2
        found = holds(xp.take(ordered, xp.where(active, middle, xp.zeros_like(middle))))
        high = xp.where(active & found, middle, high)
        low = xp.where(active & ~found, middle + 1, low)
    return low


def _by_tree(x: Array, side: Array, strict: bool, valid: Array | None) -> Array:
    from scipy.spatial import cKDTree

    points, sides = _array.host_view("x", x), _array.host_view("sides", side)
    radii = np.nextafter(sides, np.full_like(sides, -math.inf)) if strict else sides
    if points.dtype == np.float32:
        radii = _largest_that_rounds_to(radii)
    tree = cKDTree(points if valid is None else points[_array.host_view("valid", valid)])
    order = tree.indices if valid is None else np.arange(points.shape[0])
    counts = np.empty(points.shape[0], dtype=np.int64)
    counts[order] = tree.query_ball_point(
        points[order], radii[order], p=math.inf, return_length=True, workers=_tree.WORKERS
    )
    return _array.from_numpy(counts, x)


def _largest_that_rounds_to(radii: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The tree subtracts in float64: the largest float64 numbers that are at most these when rounded to float32."""
    following = np.nextafter(radii, np.full_like(radii, math.inf))
    middle = radii.astype(np.float64) / 2 + following.astype(np.float64) / 2
    below: np.ndarray[Any, Any] = np.nextafter(middle, -math.inf)
    return np.where(middle.astype(np.float32) <= radii, middle, below)
