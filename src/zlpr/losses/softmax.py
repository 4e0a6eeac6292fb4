"""Softmax cross-entropy: one label a row, or a distribution over the classes.

Everything is measured from one score of the row, the target's or the largest. What remains is a sum of positive terms,
so that a confident right answer keeps its digits where ``logsumexp(s) - s_y`` has none. The algebra is in
``docs/derivations/softmax.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Distribution, SingleLabels

__all__ = ["softmax_cross_entropy"]


@row_loss(wrt=("scores",), targets="single-label")
def softmax_cross_entropy(
    rows: Rows, shares: Array | None, *, label_smoothing: float = 0.0
) -> tuple[Array, dict[str, Array]]:
    r"""Cross-entropy between target labels or distributions and the softmax of the scores, in nats.

    .. math::

        L = \sum_i t_i \Big(\log \sum_j e^{s_j} - s_i\Big)

    with scores :math:`s` and targets :math:`t`.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (...) or (..., C) array
        Class indices (integer), or distributions over the classes (floating, in [0, 1], shaped like the scores).
    label_smoothing : float, default 0.0
        Share of the target's weight that is spread evenly over the classes that count.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over rows divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts. A masked target has no weight: such a row's loss is 0.
    axis : int, default -1
        The class axis.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host) an index is out of range or a target outside [0, 1];
        elsewhere such a row is nan.

    Notes
    -----
    Value and gradient are within 4 ulp of the row's largest entry at any margin, for distributions within 4 ulp of
    the larger of the two terms whose difference a gradient is. A score of ``-inf`` has the
    probability 0; several of ``inf`` share it equally.

    References
    ----------
    .. [1] C. M. Bishop, Pattern Recognition and Machine Learning, Springer, 2006, eq. 4.108.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import softmax_cross_entropy
    >>> value, gradient = softmax_cross_entropy.value_and_grad(np.asarray([[50.0, 0.0]]), np.asarray([0]))
    >>> print(f"{float(value):.4e}", gradient)
    1.9287e-22 [[-1.92874985e-22  1.92874985e-22]]
    """
    labels: SingleLabels = rows.labels
    p = _probabilities(rows, labels)
    mass = labels.mass()
    values = mass * p.surprise_of_reference() + labels.surprise(p.distance, p.finite)
    if shares is None:
        return values, {}
    total = p.others + p.chosen
    slopes = _ops.multiply_(p.rest, (shares * mass / total)[:, None])
    slopes = labels.taken_off(slopes, shares)
    at_reference = labels.slope_at_reference(p.chosen / total, p.others / total, p.reference)
    return values, {"scores": _ops.replaced_(slopes, p.reference, at_reference * shares)}


@softmax_cross_entropy.diagonal
def _diagonal(rows: Rows) -> Array:
    """``p (1 - p)``; ``1 - p`` of the largest is summed from the others."""
    labels: Distribution = rows.labels.dense()
    p = _probabilities(rows, labels)
    total = p.others + p.chosen
    shares = p.rest / total[:, None]
    variances = _ops.replaced_(shares * (1 - shares), p.reference, p.chosen / total * (p.others / total))
    return variances * labels.mass()[:, None]


@softmax_cross_entropy.product
def _hessian_product(rows: Rows, v: Array) -> Array:
    """``p (v - p·v)``."""
    labels: Distribution = rows.labels.dense()
    p = _probabilities(rows, labels)
    probabilities = _ops.replaced_(p.rest, p.reference, p.chosen) / (p.others + p.chosen)[:, None]
    return probabilities * _ops.centred(probabilities, v) * labels.mass()[:, None]


class _Probabilities(NamedTuple):
    """Exponentials of the scores, one reference class of each row set apart."""

    reference: Array
    distance: Array | None
    """score less that of the largest, or of the reference"""
    finite: bool
    """whether that is known to be finite"""
    rest: Array
    """exponentials, 0 for the reference"""
    chosen: Array
    """that of the reference"""
    others: Array
    """sum of the rest"""
    depth: Array | None
    """how far the score of the reference is below the largest one, which exponentials are measured from"""

    def surprise_of_reference(self) -> Array:
        """``log(1 + R / e)``; where the reference is far below the largest score and e has lost digits, without e."""
        xp = _array.namespace(self.others)
        odds = xp.log1p(self.others / self.chosen)
        if self.depth is None:
            return odds
        return xp.where(self.depth > 1, self.depth + xp.log(self.others + self.chosen), odds)


def _probabilities(rows: Rows, labels: SingleLabels) -> _Probabilities:
    """Exponentials of the scores themselves where these are moderate, so that nothing is rounded before them.

    Else of their distance from the largest score, which is exact.
    """
    moderate = rows.mask is None and _is_moderate(rows)
    if moderate:
        reference = labels.reference(rows.scores)
        distance = (
            rows.scores - _ops.chosen(rows.scores, reference)[:, None] if labels.needs_distance else None
        )
        terms, depth = _ops.exp_(_ops.copied(rows.scores, rows.buffer)), None
    else:
        scores = rows.scores
        if rows.mask is not None:
            scores = _ops.where(rows.mask, scores, -math.inf, scores)
        reference = labels.reference(scores)
        distance, error = _distance_from_largest(scores)
        terms = _array.namespace(scores).exp(distance)
        terms = terms + terms * error
        depth = None if labels.needs_distance else -_ops.chosen(distance, reference)
    chosen = _ops.chosen(terms, reference)
    rest = _ops.replaced_(terms, reference, 0.0)
    return _Probabilities(reference, distance, moderate, rest, chosen, _ops.row_sum(rest), depth)


def _is_moderate(rows: Rows) -> bool:
    """Whether exponentials and their ratios are far from overflow and from underflow."""
    room = 0.5 * _ops.log_max(rows.scores) - math.log(rows.scores.shape[-1] + 1)
    return rows.lies_within(room, rows.scores)


def _distance_from_largest(scores: Array) -> tuple[Array, Array]:
    """The distance and its rounding error; among infinite scores, 0 for those that are the largest."""
    xp = _array.namespace(scores)
    largest = _ops.row_max(scores)[:, None]
    distance, error = _ops.exact_difference(scores, largest)
    at_infinity = _ops.where(scores == largest, 0.0, -math.inf, scores)
    return xp.where(xp.abs(largest) == math.inf, at_infinity, distance), error
