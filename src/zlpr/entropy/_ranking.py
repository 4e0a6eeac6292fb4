"""Candidates put in their exact order: nearest first, of equal ones that of lower index.

Rounded distances order nearly all of them. Where two are closer than their rounding errors, squares and sums are
taken with twice the digits, terms in the order of their size, so that distances that are equal come out equal.
The algebra is in ``docs/derivations/entropy.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _metric


class Space(NamedTuple):
    """The points that are searched, and the norm."""

    points: Array
    valid: Array | None
    p: float

    def tolerance(self, eps: float | None = None) -> float:
        """A bound on twice the relative error of a rounded sum of powers, in whatever order it was added up.

        In the dtype of the points, or one of this eps.
        """
        power = 1.0 if math.isinf(self.p) else self.p
        return (int(self.points.shape[1]) + 3 * power + 6) * (eps or _metric.eps(self.points))


def unit(points: Array, queries: Array) -> tuple[Array, Array]:
    """The mean of the points, and the power of two that takes the spread from the ends of the dtype's range near 1."""
    xp = _array.namespace(points)
    with _walk.quiet(points):
        centre = xp.mean(points, axis=0)
        largest = _ops.extent(points - centre)
        if queries is not points and queries.shape[0]:
            largest = xp.maximum(largest, _ops.extent(queries - centre))
        return centre, _metric.scale(largest)


def ranked(space: Space, x: Array, own: Array | None, candidates: Array, k: int) -> tuple[Array, Array]:
    """Distances and indices, (m, k), of the k nearest among each query's candidates, (m, c).

    A candidate that is negative, not valid or the query itself does not count.
    """
    xp = _array.namespace(x)
    candidates = xp.sort(candidates, axis=-1)
    ranking = _ranked if _array.place(x) == "host" else _exactly_ranked
    distances, indices = ranking(space, x, own, candidates, k)
    if space.p not in (
        1.0,
        2.0,
        math.inf,
    ):  # a power far from 1 has a root that is off by its exponent's rounding
        within = _ops.where(
            distances < math.inf, _metric.norm(_gaps(space, x, indices), space.p), math.inf, distances
        )
        distances = xp.sort(within, axis=-1)
    return distances, indices


def _ranked(space: Space, x: Array, own: Array | None, candidates: Array, k: int) -> tuple[Array, Array]:
    """By rounded distances, and the rows in which these decide nothing again."""
    xp = _array.namespace(x)
    powers = _metric.powers(_gaps(space, x, candidates), space.p)
    powers = _ops.where(_hidden(space, own, candidates), math.inf, powers, powers)
    order = xp.argsort(powers, axis=-1, stable=True)[:, : k + 1]
    powers = xp.take_along_axis(powers, order, axis=-1)
    distances = _metric.root(powers[:, :k], space.p)
    indices = xp.take_along_axis(candidates, order[:, :k], axis=-1)
    unsure = _ops.flat_positions(_unsure(space, powers, k))
    if unsure.shape[0]:
        x, candidates = (xp.take(v, unsure, axis=0) for v in (x, candidates))
        own = None if own is None else xp.take(own, unsure, axis=0)
        distances[unsure, :], indices[unsure, :] = _exactly_ranked(space, x, own, candidates, k)
    return distances, indices


def _unsure(space: Space, powers: Array, k: int) -> Array:
    """Rows in which neighbours might trade places, or whose powers are too small or too large to be trusted."""
    xp = _array.namespace(powers)
    low, high = _metric.trusted(powers)
    near, following = powers[:, :k], powers[:, 1:]
    close = following <= near[:, : following.shape[1]] * (1.0 + space.tolerance())
    odd = ~((near >= low) & (near <= high))
    return xp.any(close & (following < math.inf), axis=-1) | xp.any(odd, axis=-1)


def _exactly_ranked(
    space: Space, x: Array, own: Array | None, candidates: Array, k: int
) -> tuple[Array, Array]:
    """By distance, and among equal distances by the digits that its rounding took off."""
    xp = _array.namespace(x)
    keys = _metric.exact_keys(
        *_ops.exact_difference(x[:, None, :], _taken(space.points, candidates)), space.p
    )
    hidden, order = _hidden(space, own, candidates), None
    for key in keys:  # the last one counts most
        key = _ops.where(hidden, math.inf, key, key)
        found = key if order is None else xp.take_along_axis(key, order, axis=-1)
        step = xp.argsort(found, axis=-1, stable=True)
        order = step if order is None else xp.take_along_axis(order, step, axis=-1)
    order = order[:, :k]  # type: ignore[index]  # there is a key
    distances = _ops.where(hidden, math.inf, keys[-1], keys[-1])
    return xp.take_along_axis(distances, order, axis=-1), xp.take_along_axis(candidates, order, axis=-1)


def _hidden(space: Space, own: Array | None, candidates: Array) -> Array:
    hidden = candidates < 0
    if own is not None:
        hidden = hidden | (candidates == own[:, None])
    return hidden if space.valid is None else hidden | ~_taken(space.valid, candidates)


def _taken(values: Array, indices: Array) -> Array:
    xp = _array.namespace(values)
    flat = xp.reshape(indices, (-1,))
    flat = xp.where(flat < 0, xp.zeros_like(flat), flat)
    return xp.reshape(xp.take(values, flat, axis=0), (*indices.shape, *values.shape[1:]))


def _gaps(space: Space, x: Array, candidates: Array) -> Array:
    return x[:, None, :] - _taken(space.points, candidates)
