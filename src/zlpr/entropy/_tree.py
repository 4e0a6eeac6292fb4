"""Neighbours by SciPy's k-d tree, on all cores, for arrays in host memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zlpr import _array, _walk
from zlpr._array import Array
from zlpr.entropy._ranking import Space, ranked, unit

_SPARE = 1
_BLOCK = 1 << 16  # candidates at a time
WORKERS = -1  # all cores
_TINY, _FEW = 2.0**-450, 8  # the square of a shorter distance has lost digits; so many coordinates are few
_Numbers = np.ndarray[Any, Any]
_Found = tuple[_Numbers, _Numbers]


def nearest(space: Space, queries: Array, own: Array | None, k: int) -> tuple[Array, Array]:
    """Distances and indices of the k nearest points of each query, (m, k).

    Queries are asked for in the order of the tree's leaves, so that those that follow each other find their branches
    in the cache.
    """
    branches = _Branches.of(space, queries)
    asked, n = _array.host_view("queries", queries), branches.tree.n
    order = branches.tree.indices if own is not None and space.valid is None else _in_leaf_order(asked)
    count = min(n, k + (own is not None) + _SPARE)
    distances, indices = (
        np.empty((order.shape[0], k), dtype=asked.dtype),
        np.empty((order.shape[0], k), np.int64),
    )
    step = max(1, _BLOCK // count)
    for start in range(0, order.shape[0], step):
        rows = order[start : start + step]
        of_rows = rows if own is not None else None
        with _walk.quiet(asked):
            distances[rows], indices[rows] = branches.search(asked[rows], of_rows, count, k)
    return _array.from_numpy(distances, queries), _array.from_numpy(indices, queries)


def _in_leaf_order(points: _Numbers) -> _Numbers:
    from scipy.spatial import cKDTree

    order: _Numbers = cKDTree(points).indices
    return order


class _Branches:
    """A tree of the valid points, scaled from the ends of the dtype's range so that no distance leaves it."""

    def __init__(self, space: Space, factor: float) -> None:
        from scipy.spatial import cKDTree

        self.space, self.factor = space, factor
        points = space.points if space.valid is None else space.points[space.valid]
        self.tree = cKDTree(points if factor == 1 else points * factor)
        self.kept = None if space.valid is None else np.flatnonzero(space.valid)

    @classmethod
    def of(cls, space: Space, queries: Array) -> _Branches:
        """The tree of a search space of any library's host arrays."""
        factor = float(unit(space.points, queries)[1])
        valid = None if space.valid is None else _array.host_view("valid", space.valid)
        return cls(Space(_array.host_view("x", space.points), valid, space.p), factor)

    def search(self, x: _Numbers, own: _Numbers | None, count: int, k: int) -> _Found:
        """The k nearest of each query; the tree's own order where its rounding errors leave no doubt of it."""
        scaled = x if self.factor == 1 else x * self.factor
        far, candidates = self.tree.query(scaled, np.arange(1, count + 1), p=self.space.p, workers=WORKERS)
        candidates = np.where(candidates == self.tree.n, -1, candidates)
        if self.kept is not None:
            candidates = np.where(candidates < 0, -1, self.kept[candidates])
        first, rows = int(own is not None), self._in_doubt(far, candidates, own, count)
        distances = (far[:, first : first + k] / self.factor).astype(x.dtype)
        indices = candidates[:, first : first + k]
        if rows.shape[0]:
            own = None if own is None else own[rows]
            distances[rows], indices[rows] = self._ranked(x[rows], own, far[rows], candidates[rows], k)
        return distances, indices

    def _in_doubt(self, far: _Numbers, candidates: _Numbers, own: _Numbers | None, count: int) -> _Numbers:
        """Rows whose order rounding may have decided, the query itself not being first; all of them in many dimensions.

        The tree computes in float64. In few dimensions its distances are within 2 ulp.
        """
        if self.space.p not in (1.0, 2.0, math.inf) or self.space.points.shape[1] > _FEW or count < 2:
            return np.arange(far.shape[0])
        doubt = far[:, 1:] <= far[:, :-1] * (1.0 + self.space.tolerance(2.0**-52))
        doubt |= ~((far[:, 1:] > _TINY) & (far[:, 1:] < math.inf))
        certain = ~doubt.any(axis=1)
        certain &= far[:, 0] > _TINY if own is None else candidates[:, 0] == own
        return np.flatnonzero(~certain)

    def _ranked(
        self, x: _Numbers, own: _Numbers | None, far: _Numbers, candidates: _Numbers, k: int
    ) -> _Found:
        """In exact order, with twice as many candidates where the last one is as near as the k-th neighbour."""
        distances, indices = ranked(self.space, x, own, candidates, k)
        count = candidates.shape[1]
        if count < self.tree.n:
            sure = far[:, -1] > self.factor * distances[:, -1] * (1.0 + self.space.tolerance())
            rows = np.flatnonzero(~sure)
            if rows.shape[0]:
                of_rows = None if own is None else own[rows]
                distances[rows], indices[rows] = self.search(x[rows], of_rows, min(self.tree.n, 2 * count), k)
        return distances, indices
