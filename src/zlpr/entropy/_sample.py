"""Samples of points with leading batch axes: their edges to neighbours, duplicates, weights and the reduction.

What estimators have in common, so that each is its formula and its pullback.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _constants, _metric, _points
from zlpr.entropy._edges import Edges, in_base
from zlpr.entropy.search import nearest

Duplicates = Literal["raise", "drop", "clamp"]
Reduction = Literal["mean", "sum", "none"]


class Options(NamedTuple):
    """The options of an estimator after the checks."""

    ks: tuple[int, ...]
    p: float
    duplicates: Duplicates
    method: str
    reduction: Reduction
    k_reduction: Literal["mean", "none"]
    scale: float
    smoothing: float
    min_distance: float | None

    @classmethod
    def checked(
        cls,
        k: Any,
        available: int,
        others: str,
        *,
        p: Any = 2.0,
        duplicates: Any = "raise",
        method: Any = "auto",
        reduction: Any = "mean",
        base: Any = None,
        smoothing: Any = 0.0,
        k_reduction: Any = "mean",
        min_distance: Any = None,
    ) -> Options:
        """The options, or an error that names what is wrong."""
        if duplicates not in ("raise", "drop", "clamp"):
            raise ValueError(f'duplicates must be "raise", "drop" or "clamp", not {duplicates!r}')
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
        if k_reduction not in ("mean", "none"):
            raise ValueError(f'k_reduction must be "mean" or "none", not {k_reduction!r}')
        if not isinstance(smoothing, int | float) or not 0 <= smoothing < math.inf:
            raise ValueError(f"smoothing must be a distance of at least 0, got {smoothing!r}")
        if min_distance is not None and (duplicates != "clamp" or not 0 < min_distance < math.inf):
            raise ValueError(
                f'min_distance must be a positive distance, given with duplicates="clamp", got {min_distance!r}'
            )
        ks = tuple(k) if isinstance(k, tuple | list) else (k,)
        if not ks:
            raise ValueError("k must be an integer or a sequence of integers, got none")
        return cls(
            tuple(_points.checked_k(one, available, others) for one in ks),
            *(_metric.checked_p(p), duplicates, _points.checked_method(method), reduction, k_reduction),
            *(in_base(base), float(smoothing), min_distance),
        )


class Batches(NamedTuple):
    """Points as (B, n, d) in the dtype to compute in, and what the caller's array was like."""

    points: Array
    shape: tuple[int, ...]
    dtype: Any
    finite: Array | None
    """Whether all coordinates of a batch are finite, (B,), where that could not be checked before."""

    @classmethod
    def of(cls, name: str, x: Array) -> Batches:
        """Checked points."""
        _points.require_finite(name, x)
        xp, shape = _array.namespace(x), tuple(x.shape)
        points = _array.as_dtype(xp.reshape(x, (-1, *shape[-2:])), _array.compute_dtype(x))
        finite = None if _points.is_host(x) else xp.all(xp.isfinite(points), axis=(1, 2))
        return cls(points, shape, x.dtype, finite)

    @property
    def flat(self) -> Array:
        """All points of all batches, (B n, d)."""
        return _array.namespace(self.points).reshape(self.points, (-1, self.points.shape[2]))

    def log_count(self, kept: Array | None, others: int, form: str) -> Array | float:
        """What an estimate has for the log number of the points left, shaped to be added to (B, n, K).

        `others` is how many beside them take part: 0 for a point among them, 1 for a query from elsewhere.
        """
        if kept is None:
            return _constants.log_count(self.points.shape[1] + others, form)
        xp = _array.namespace(self.points)
        count = xp.sum(_array.as_dtype(kept, self.points.dtype), axis=1) + float(others)
        return xp.reshape(_constants.log_count_of(count, form), (-1, 1, 1))

    def restored(self, gradient: Array) -> Array:
        """A gradient of the flat points in the caller's shape and dtype."""
        xp = _array.namespace(gradient)
        return _array.as_dtype(xp.reshape(gradient, self.shape), self.dtype)

    def unless_finite(self, x: Array) -> Array:
        """`x`, (B, ...), and nan in the batches that are not finite."""
        if self.finite is None:
            return x
        finite = _array.namespace(x).reshape(self.finite, (-1,) + (1,) * (x.ndim - 1))
        return _ops.where(finite, x, math.nan, x)

    def first_of_equals(self, name: str, method: str, least: int) -> Array:
        """False at points that repeat one of lower index, (B, n).

        If fewer than the least number are left: a ValueError on the host, and False for the whole batch elsewhere.
        """
        xp, n = _array.namespace(self.points), self.points.shape[1]
        places = xp.arange(n, device=_array.device(self.points))
        if n == 1:
            return self.points[..., 0] == self.points[..., 0]
        found = []
        for i in range(self.points.shape[0]):
            distances, indices = nearest(self.points[i, ...], None, 1, math.inf, method)
            found.append((distances[:, 0] > 0) | (_array.as_dtype(indices[:, 0], places.dtype) > places))
        first = xp.stack(found)
        enough = xp.count_nonzero(first, axis=1) >= least
        if _points.is_host(self.points):
            if not bool(xp.all(enough)):
                raise ValueError(f"{name} has fewer than {least} different points, which the largest k takes")
            return first
        return first & enough[:, None]


def edges_between(
    queries: Batches, points: Batches | None, options: Options, ks: tuple[int, ...], valid: Array | None
) -> Edges:
    """Edges from every query to its k-th neighbours in its batch, among the valid points, (B n, K).

    To the others of its own sample where no points are given.
    """
    xp, target = _array.namespace(queries.points), queries if points is None else points
    ends, n = [], target.points.shape[1]
    for i in range(target.points.shape[0]):
        asked = None if points is None else queries.points[i, ...]
        chosen = None if valid is None else valid[i, ...]
        _, indices = nearest(target.points[i, ...], asked, max(ks), options.p, options.method, chosen)
        ends.append(xp.stack([indices[:, k - 1] for k in ks], axis=-1) + i * n)
    with _walk.quiet(queries.points):
        return Edges.between(queries.flat, target.flat, xp.concat(ends, axis=0), options.p, options.smoothing)


class Logs(NamedTuple):
    """Log-lengths of edges after the duplicates' policy, (B, n, K), and how cotangents of these reach the edges."""

    values: Array
    edges: Edges
    batches: int
    zero: Array | None
    shortest: Array | None

    @classmethod
    def of(cls, edges: Edges, batches: int, options: Options, kept: Array | None, name: str) -> Logs:
        """Log-lengths; a ValueError for a zero length on the host where the policy does not allow it, else nan."""
        xp, dims = _array.namespace(edges.lengths), (batches, -1, edges.lengths.shape[1])
        lengths = xp.reshape(edges.lengths, dims)
        with _walk.quiet(lengths):
            values = xp.reshape(edges.log_lengths(), dims)
            if kept is not None:
                lengths = _ops.where(kept[..., None], lengths, 1.0, lengths)
                values = _ops.where(kept[..., None], values, 0.0, values)
            if options.smoothing:
                return cls(values, edges, batches, None, None)
            if options.min_distance is not None:
                zero = lengths < options.min_distance
                values = _ops.where(zero, math.log(options.min_distance), values, values)
                return cls(values, edges, batches, zero, None)
            zero, shortest = lengths == 0, None
            if options.duplicates == "clamp":
                positive = _ops.where(zero, math.inf, lengths, lengths)
                shortest = xp.argmin(positive, axis=1)[:, None, :]
                floor = xp.take_along_axis(positive, shortest, axis=1)
                zero, nowhere = zero & (floor < math.inf), zero & (floor == math.inf)
                values = _ops.where(zero, xp.log(floor), values, values)
            else:
                nowhere, zero = zero, None
        if _points.is_host(lengths) and bool(xp.any(nowhere)):
            _refuse(nowhere, options, name)
        return cls(_ops.where(nowhere, math.nan, values, values), edges, batches, zero, shortest)

    def pulled(self, weights: Array) -> tuple[Array, Array]:
        """Gradients with respect to queries and points, flat, of ``Σ weights · values``."""
        xp = _array.namespace(weights)
        if self.zero is not None:
            moved = _ops.where(self.zero, weights, 0.0, weights)
            weights = _ops.where(self.zero, 0.0, weights, weights)
            if self.shortest is not None:  # the others take its value, and it takes their cotangents
                places = xp.arange(weights.shape[1], dtype=self.shortest.dtype, device=_array.device(weights))
                total = xp.sum(moved, axis=1, keepdims=True)
                weights = weights + _ops.where(places[None, :, None] == self.shortest, total, 0.0, weights)
        return self.edges.pulled(xp.reshape(weights, self.edges.lengths.shape))


def _refuse(zero: Array, options: Options, name: str) -> None:
    xp = _array.namespace(zero)
    place = [int(axis[0]) for axis in xp.nonzero(zero)]
    points, k = int(xp.count_nonzero(xp.any(zero, axis=-1))), options.ks[place[2] % len(options.ks)]
    if options.duplicates == "clamp":
        raise ValueError(
            f"all points of {name} coincide with their neighbours: there is no distance to clamp to"
        )
    raise ValueError(
        f"{name} has {points} points at distance 0 from their neighbour number {k}, the first at index {place[1]}, and "
        f'the logarithm of 0 is -inf: take duplicates="drop" or "clamp", a larger k, or smoothing'
    )


class Weights(NamedTuple):
    """Weights of the points, (B, n), or None for 1; the reduction over them and its cotangents."""

    weights: Array | None
    kept: Array | None
    options: Options
    batch: tuple[int, ...]

    @classmethod
    def checked(
        cls, name: str, x: Array, sample_weight: Any, kept: Array | None, options: Options
    ) -> Weights:
        """The weights of a call."""
        batch = tuple(x.shape[:-2])
        if sample_weight is None:
            return cls(
                kept if kept is None else _array.as_dtype(kept, _array.compute_dtype(x)), kept, options, batch
            )
        _array.require_array("sample_weight", sample_weight)
        _array.require_same_home(name, x, "sample_weight", sample_weight)
        if tuple(sample_weight.shape) != tuple(x.shape[:-1]):
            raise ValueError(
                f"sample_weight must have one entry a point, shape {tuple(x.shape[:-1])}, "
                f"not {tuple(sample_weight.shape)}"
            )
        xp, dtype = _array.namespace(x), _array.compute_dtype(x)
        weights = xp.reshape(_array.as_dtype(sample_weight, dtype), (-1, x.shape[-2]))
        return cls(weights if kept is None else weights * _array.as_dtype(kept, dtype), kept, options, batch)

    def reduced(self, local: Array) -> Array:
        """Local values, (B, n, K), as the reductions ask."""
        xp, options = _array.namespace(local), self.options
        if options.k_reduction == "mean":
            local = xp.mean(local, axis=-1, keepdims=True)
        weights = self.weights
        if options.reduction == "none":
            value = local if weights is None else local * weights[..., None]
            if self.kept is not None:
                value = _ops.where(self.kept[..., None], value, math.nan, value)
            shape: tuple[int, ...] = (*self.batch, int(local.shape[1]))
        else:
            lines = xp.moveaxis(local, 1, -1)  # (B, K, n)
            if weights is not None:
                lines = _ops.where(weights[:, None, :] == 0, 0.0, lines * weights[:, None, :], lines)
            value, shape = _ops.row_sum(lines), self.batch
            if options.reduction == "mean":
                value = value / (local.shape[1] if weights is None else _ops.row_sum(weights)[:, None])
        tail = () if options.k_reduction == "mean" else (len(options.ks),)
        return xp.reshape(value, shape + tail)

    def cotangents(self, dvalue: Array, like: Array) -> Array:
        """The cotangents of the local values, like them (B, n, K), from that of the reduced value."""
        xp, options = _array.namespace(like), self.options
        batches, n, count = like.shape
        points = n if options.reduction == "none" else 1
        ks = count if options.k_reduction == "none" else 1
        shares = xp.reshape(_array.as_dtype(dvalue, like.dtype), (batches, points, ks))
        shares = xp.broadcast_to(shares, (batches, n, count))
        weights, divisor = self.weights, 1.0 if options.k_reduction == "none" else float(count)
        if weights is not None:
            if options.reduction == "mean":
                weights = weights / _ops.row_sum(weights)[:, None]
            return shares * weights[..., None] / divisor
        return shares / (divisor * n if options.reduction == "mean" else divisor)


def require_cotangent(dvalue: Any, value: Array) -> None:
    """Raise a ValueError unless a cotangent has the shape of the value."""
    found = tuple(dvalue.shape) if hasattr(dvalue, "shape") else type(dvalue).__name__
    if found != tuple(value.shape):
        raise ValueError(f"dvalue must have the shape of the value, {tuple(value.shape)}, not {found}")
