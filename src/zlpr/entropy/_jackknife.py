"""Standard errors by the jackknife: the spread of the estimates from all samples with one point less.

These follow from one search: where a point is missing, queries that had it among their k neighbours have their next
one as the k-th.
"""

from __future__ import annotations

from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.entropy._sample import Logs, Options, Weights


class Sums(NamedTuple):
    """Weighted log-lengths of the queries' edges to the k-th neighbour, and what their sum gains without a point."""

    terms: Array
    gained: Array

    @classmethod
    def of(cls, logs: Logs, ends: Array, weights: Array) -> Sums:
        """Of the logs to the k-th and the next neighbour, (B, n, 2), and the ends of edges to all k, (B n, k)."""
        xp, batches = _array.namespace(weights), weights.shape[0]
        terms = weights * logs.values[..., 0]
        growth = xp.reshape(weights * (logs.values[..., 1] - logs.values[..., 0]), (-1, 1))
        rows = xp.reshape(xp.broadcast_to(growth, ends.shape), (-1, 1))
        gained = _ops.sum_by_target(rows, xp.reshape(ends, (-1,)), logs.edges.n)
        return cls(terms, xp.reshape(gained, (batches, -1)))


def weights_of(call_weights: Weights, like: Array) -> Array:
    """The weights of points, (B, n, d), as an array: (B, n)."""
    if call_weights.weights is not None:
        return call_weights.weights
    return _array.namespace(like).ones_like(like[..., 0])


def variance(estimates: list[Array], counted: Array | None, options: Options) -> Array:
    """Of the estimates without one of the points that are counted, (B, n) for each k, or of their mean over k.

    (B, K), or (B, 1) for the mean.
    """
    xp = _array.namespace(estimates[0])
    without = xp.stack(estimates, axis=1)
    if options.k_reduction == "mean":
        without = xp.mean(without, axis=1, keepdims=True)
    if counted is None:
        counts = xp.ones_like(without)
    else:
        counts = xp.broadcast_to(_array.as_dtype(counted, without.dtype)[:, None, :], without.shape)
        without = _ops.where(counts > 0, without, 0.0, without)
    n = _ops.row_sum(counts)
    centred = (without - (_ops.row_sum(without) / n)[..., None]) * counts
    return _ops.row_sum(centred * centred) * ((n - 1.0) / n)


def shaped(error: Array, batch: tuple[int, ...], options: Options) -> Array:
    """Standard errors, (B, K), in the shape of the value."""
    tail = () if options.k_reduction == "mean" else (len(options.ks),)
    return _array.namespace(error).reshape(error, batch + tail)
