"""Neighbours in one dimension, where sorting serves: O(n log n)."""

from __future__ import annotations

import math

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy._ranking import Space, ranked


def nearest(space: Space, queries: Array, own: Array | None, k: int) -> tuple[Array, Array]:
    """Distances and indices of the k nearest points of each query, (m, k).

    The k nearest on either side are among k + 1 places of the sorted points, one of which may be the query's own.
    """
    xp, n = _array.namespace(queries), space.points.shape[0]
    values = space.points[:, 0]
    if space.valid is not None:
        values = _ops.where(space.valid, values, math.inf, values)
    order = xp.argsort(values, stable=True)
    values = xp.take(values, order)
    count = min(n, k + (own is not None))
    steps = xp.arange(count, dtype=order.dtype, device=_array.device(order))[None, :]
    firsts, ends = (
        _array.as_dtype(xp.searchsorted(values, values, side=side), order.dtype) for side in ("left", "right")
    )

    def kernel(x: Array, own: Array | None) -> tuple[Array, Array]:
        middle = _array.as_dtype(xp.searchsorted(values, x[:, 0], side="left"), order.dtype)[:, None]
        left, right = middle - 1 - steps, middle + steps
        inside = xp.where(left < 0, xp.zeros_like(left), left)
        # Of equal points the one of lowest index comes first, also leftwards: each run is walked from its start.
        mirrored = _at(firsts, inside) + _at(ends, inside) - 1 - inside
        left = xp.where(left < 0, left, _at(order, mirrored))
        beyond = right >= n
        right = xp.where(
            beyond, -xp.ones_like(right), _at(order, xp.where(beyond, xp.zeros_like(right), right))
        )
        return ranked(space, x, own, xp.concat([left, right], axis=-1), k)

    return _walk.walk_queries(kernel, queries, own, width=16 * count)


def _at(values: Array, places: Array) -> Array:
    xp = _array.namespace(values)
    return xp.reshape(xp.take(values, xp.reshape(places, (-1,))), places.shape)
