"""Neighbours by comparing every query with every point, in blocks of queries, on the arrays' own device.

For the Euclidean norm a matrix product of centred data gives squared distances up to a bounded error: a few more
candidates than neighbours are taken by it, and a row is kept if the bound rules out that a point left out is nearer.
The other rows, and other norms, compare by direct subtraction. ``docs/derivations/entropy.md`` has the bound.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _metric
from zlpr.entropy._ranking import Space, ranked, unit

_SPARE_ON_HOST = 2  # candidates beyond the neighbours
_SPARE = 8  # and where their number cannot follow the data

_Found = tuple[Array, Array]


def nearest(space: Space, queries: Array, own: Array | None, k: int) -> _Found:
    """Distances and indices of the k nearest points of each query, (m, k)."""
    search = _Search(space, *unit(space.points, queries), k, own is not None)
    if space.p == 2.0 and _ops.can_branch(queries):
        return _nearest_by_product(search, queries, own)
    return _nearest_by_subtraction(search, queries, own)


def _nearest_by_subtraction(search: _Search, queries: Array, own: Array | None) -> _Found:
    def kernel(x: Array, own: Array | None) -> _Found:
        return _by_subtraction(search, x, own)

    return _walk.walk_queries(kernel, queries, own, width=3 * search.space.points.shape[0])


def _nearest_by_product(search: _Search, queries: Array, own: Array | None) -> _Found:
    table, n = search.table(), search.space.points.shape[0]
    if _array.place(queries) != "host":

        def kernel(x: Array, own: Array | None) -> _Found:
            *found, sure = _settled(search, x, own, *_candidates(search, table, x))
            return _ops.either(  # type: ignore[no-any-return]  # one of the two
                _array.namespace(x).all(sure),
                lambda x, found, own: found,
                lambda x, _, own: _by_subtraction(search, x, own),
                *(x, tuple(found), own),
            )

        return _walk.walk_queries(kernel, queries, own, width=n)
    # On the host each step has blocks of its own size, and the unsure rows of all blocks are done together.
    chosen = _walk.walk_queries(lambda x: _candidates(search, table, x), queries, width=n)
    settled = functools.partial(_settled, search)
    width = 16 * chosen[0].shape[1] * queries.shape[1]
    distances, indices, sure = _walk.walk_queries(settled, queries, own, *chosen, width=width)
    rows = _ops.flat_positions(~sure)
    if rows.shape[0]:
        xp = _array.namespace(queries)
        own = None if own is None else xp.take(own, rows, axis=0)
        again = _nearest_by_subtraction(search, xp.take(queries, rows, axis=0), own)
        distances[rows, :], indices[rows, :] = again
    return distances, indices


class _Search(NamedTuple):
    """What is sought, where the points lie, and the power of two by which data are multiplied before squaring."""

    space: Space
    centre: Array
    factor: Array
    k: int
    own: bool

    def candidates(self, spare: int) -> int:
        """How many to take."""
        return int(min(self.space.points.shape[0], self.k + self.own + spare))

    def centred(self, x: Array) -> Array:
        return (x - self.centre) * self.factor

    def table(self) -> Array:
        """The points as the right side of a product, (d + 1, n): ``[x, 1] [-2y, |y|²]ᵀ`` is ``|x - y|² - |x|²``."""
        xp = _array.namespace(self.space.points)
        with _walk.quiet(self.space.points):
            y = self.centred(self.space.points)
            squares = _ops.row_sum(y * y)
            if self.space.valid is not None:
                squares = _ops.where(self.space.valid, squares, math.inf, squares)
            return xp.concat([-2.0 * y, squares[:, None]], axis=1).T


def _candidates(search: _Search, table: Array, x: Array) -> _Found:
    """Indices of the points of least product with each query, and the largest of these products."""
    xp, y = _array.namespace(x), search.centred(x)
    coarse = _ops.product(xp.concat([y, xp.ones_like(y[:, :1])], axis=1), table)
    candidates = _ops.smallest(coarse, search.candidates(_SPARE_ON_HOST))
    return candidates, xp.max(xp.take_along_axis(coarse, candidates, axis=-1), axis=-1)


def _settled(
    search: _Search, x: Array, own: Array | None, candidates: Array, left_out: Array
) -> tuple[Array, Array, Array]:
    """The nearest of the candidates, and whether no other point can be among them."""
    distances, indices = ranked(search.space, x, own, candidates, search.k)
    sure = _rules_out_others(search, search.centred(x), left_out, distances[:, -1])
    return distances, indices, sure | (candidates.shape[1] == search.space.points.shape[0])


def _rules_out_others(search: _Search, y: Array, left_out: Array, distance: Array) -> Array:
    """Whether no point beyond the candidates can be as near as the k-th of them.

    Such a point would be no further from the centre than ``|y| + distance``, which bounds the error of its product.
    """
    low, _ = _metric.trusted(y)
    squares, distance = _ops.row_sum(y * y), distance * search.factor
    reach = 2.0 * _array.namespace(y).sqrt(squares) + distance
    error = (2 * y.shape[1] + 10) * _metric.eps(y) * reach * reach + low
    return left_out + squares > distance * distance + error


def _by_subtraction(search: _Search, x: Array, own: Array | None) -> _Found:
    xp, space, k = _array.namespace(x), search.space, search.k
    factor, on_host = search.factor, _array.place(x) == "host"
    powers = _metric.pair_powers(x * factor, space.points * factor, space.p)
    if space.valid is not None:
        powers = _ops.where(space.valid[None, :], powers, math.inf, powers)
    candidates = _ops.smallest(powers, search.candidates(_SPARE_ON_HOST if on_host else _SPARE))
    found = ranked(space, x, own, candidates, k)
    if not on_host or candidates.shape[1] == space.points.shape[0]:
        return found
    low, high = _metric.trusted(powers)
    last = _metric.power(found[0][:, -1] * factor, space.p)
    reach = _ops.where((last >= low) & (last <= high), last * (1.0 + space.tolerance()), math.inf, last)
    within = xp.count_nonzero(powers <= reach[:, None], axis=-1)
    rows = _ops.flat_positions(within > candidates.shape[1])
    if rows.shape[0]:
        every = _ops.smallest(xp.take(powers, rows, axis=0), int(_ops.largest(within)))
        own = None if own is None else xp.take(own, rows, axis=0)
        found[0][rows, :], found[1][rows, :] = _ranked_in_parts(
            space, xp.take(x, rows, axis=0), every, own, k
        )
    return found


def _ranked_in_parts(space: Space, x: Array, candidates: Array, own: Array | None, k: int) -> _Found:
    """Where there are many candidates, few rows at a time."""

    def kernel(x: Array, candidates: Array, own: Array | None) -> _Found:
        return ranked(space, x, own, candidates, k)

    return _walk.walk_queries(kernel, x, candidates, own, width=candidates.shape[1] * x.shape[1])
