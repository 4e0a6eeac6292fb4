"""Coordinates brought to one unit, so that the units of the data do not matter, and the pullback of that."""

from __future__ import annotations

import functools
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from zlpr import _array, _ops, _walk
from zlpr._array import Array

Scaling = Literal[True, False, "rank"]
_Scaled = tuple[Array, Callable[[Array], Array]]


def checked_scaling(standardize: Any) -> Scaling:
    """What to do to the coordinates."""
    if isinstance(standardize, bool):
        return standardize
    if standardize == "rank":
        return "rank"
    raise ValueError(f'standardize must be True, False or "rank", not {standardize!r}')


def scaled(points: Array, standardize: Scaling) -> _Scaled:
    """Points, (B, n, d), in their new units, and the pullback from gradients of these."""
    if standardize == "rank":
        return _normal_scores(points), _refuse_gradient
    return _deviations(points) if standardize else (points, lambda dz: dz)


def _deviations(points: Array) -> _Scaled:
    """Deviations from the mean in standard deviations, with n - 1 in these; a constant coordinate is 0."""
    xp, n = _array.namespace(points), points.shape[1]
    constant = xp.all(points == points[:, :1, :], axis=1, keepdims=True)
    with _walk.quiet(points):
        shifted = points - points[:, :1, :]  # exact for a constant, and far from 0
        centred = shifted - _column_mean(shifted)
        largest = xp.max(xp.abs(centred), axis=1, keepdims=True)
        size = _ops.where(constant, 1.0, largest, largest)
        ratios = _ops.where(constant, 0.0, centred / size, points)
        spread = xp.sqrt(_column_mean(ratios * ratios) * (n / (n - 1)))
        spread = _ops.where(constant, 1.0, spread, spread)
        z = ratios / spread

    def deviations_pullback(dz: Array) -> Array:
        along = z * (_column_mean(z * dz) * (n / (n - 1)))
        gradient = (dz - _column_mean(dz) - along) / spread / size
        return _ops.where(constant, 0.0, gradient, gradient)

    return z, deviations_pullback


def _column_mean(x: Array) -> Array:
    """Mean over the points, (B, n, d) to (B, 1, d)."""
    xp = _array.namespace(x)
    return (_ops.row_sum(xp.moveaxis(x, 1, -1)) / x.shape[1])[:, None, :]


def _normal_scores(points: Array) -> Array:
    """Quantiles of the normal law at rank / (n + 1); equal values have the mean of their ranks."""
    xp, (batches, n, d) = _array.namespace(points), points.shape
    table = _array.as_dtype(_array.from_numpy(_quantiles(n), points), points.dtype)
    points = _array.detached(points)
    columns = xp.stack([points[i, :, j] for i in range(batches) for j in range(d)])
    found = []
    for i in range(batches * d):
        column = columns[i, :]
        ordered = xp.sort(column)
        below = xp.searchsorted(ordered, column, side="left")
        twice = below + _array.as_dtype(xp.searchsorted(ordered, column, side="right"), below.dtype)
        found.append(xp.take(table, twice - 1))  # twice the mean rank is one more: from 2 on
    return xp.moveaxis(xp.reshape(xp.stack(found), (batches, d, n)), -1, 1)


@functools.lru_cache(maxsize=8)
def _quantiles(n: int) -> np.ndarray[Any, Any]:
    """Normal quantiles of 1, 1.5, 2, ... n over n + 1."""
    normal = NormalDist()
    lower = [normal.inv_cdf(twice / (2 * (n + 1))) for twice in range(2, n + 1)]
    return np.asarray([*lower, 0.0, *(-q for q in reversed(lower))])


def _refuse_gradient(dz: Array) -> Array:
    raise ValueError(
        'standardize="rank" has no gradient: ranks are constant between ties; take standardize=True'
    )
