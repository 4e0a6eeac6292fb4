"""Edges from queries to neighbours: their log-lengths, and the pullback of these to both ends.

All estimators of this room are sums of log-lengths of edges and constants, so that this is their one gradient.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.entropy import _metric


class Edges(NamedTuple):
    """Edges from m queries, K a query, to n points: differences (m, K, d), lengths (m, K), ends (m, K)."""

    gaps: Array
    lengths: Array
    ends: Array
    n: int
    p: float
    smoothing: float

    @classmethod
    def between(cls, queries: Array, points: Array, ends: Array, p: float, smoothing: float = 0.0) -> Edges:
        """The edges to the points of these indices, (m, K)."""
        xp = _array.namespace(points)
        near = xp.reshape(xp.take(points, xp.reshape(ends, (-1,)), axis=0), (*ends.shape, points.shape[1]))
        gaps = queries[:, None, :] - near
        return cls(gaps, _metric.norm(gaps, p), ends, int(points.shape[0]), p, smoothing)

    def of(self, columns: list[int]) -> Edges:
        """The edges to some of the neighbours."""
        xp = _array.namespace(self.gaps)
        gaps, lengths, ends = (
            xp.stack([v[:, i, ...] for i in columns], axis=1) for v in (self.gaps, self.lengths, self.ends)
        )
        return self._replace(gaps=gaps, lengths=lengths, ends=ends)

    def log_lengths(self) -> Array:
        """``log ε``, or ``½ log(ε² + δ²)`` with smoothing δ, (m, K)."""
        xp = _array.namespace(self.lengths)
        if not self.smoothing:
            return xp.log(self.lengths)
        large, ratio = self._against_smoothing()
        return xp.log(large) + 0.5 * xp.log1p(ratio * ratio)

    def _against_smoothing(self) -> tuple[Array, Array]:
        """The larger of length and smoothing, and the ratio of the smaller to it."""
        above = self.lengths > self.smoothing
        large = _ops.where(above, self.lengths, self.smoothing, self.lengths)
        return large, _ops.where(above, self.smoothing, self.lengths, self.lengths) / large

    def pulled(self, weights: Array) -> tuple[Array, Array]:
        """Gradients of ``Σ weights · log_lengths`` with respect to queries, (m, d), and points, (n, d).

        For p = 2 their difference is the graph Laplacian of the edges, weighted by ``weights / ε²``, applied to the
        points; other norms have another direction on each edge.
        """
        xp = _array.namespace(self.gaps)
        slopes = _metric.slope(self.gaps, self.lengths, self.p)
        if self.smoothing:
            large, ratio = self._against_smoothing()
            share = (self.lengths / large) / (1.0 + ratio * ratio)
        else:
            large, share = _ops.where(self.lengths > 0, self.lengths, 1.0, self.lengths), 1.0
        pulls = slopes * (share / large * weights)[..., None]
        pushes = xp.reshape(-pulls, (-1, pulls.shape[-1]))
        return xp.sum(pulls, axis=1), _ops.sum_by_target(pushes, xp.reshape(self.ends, (-1,)), self.n)


def in_base(base: Any) -> float:
    """What a value in nats is multiplied by."""
    if base is None:
        return 1.0
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1 < base < math.inf:
        raise ValueError(f"base must be None (nats) or a finite number above 1, got {base!r}")
    return 1.0 / math.log(base)
