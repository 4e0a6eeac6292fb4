"""Softmax cross-entropy: one label a row, or a distribution over the classes.

Everything is measured from the largest score: what remains is a sum of positive terms, so that a confident right
answer keeps its digits where ``logsumexp(s) - s_y`` has none. The algebra is in ``docs/derivations/softmax.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss

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
    p = _probabilities(rows)
    targets = _masked_and_smoothed(rows)
    mass = _ops.row_sum(targets)
    gaps = _ops.where(targets > 0, -p.distance, 0.0, p.distance)
    xp = _array.namespace(targets)
    values = _ops.row_sum(targets * gaps) + mass * xp.log1p(p.others)
    if shares is None:
        return values, {}
    at_top = (mass[:, None] - targets) - (mass * p.others / (1 + p.others))[:, None]
    plain = p.terms * (mass / (1 + p.others))[:, None] - targets
    confident = p.top & (p.others < 1)[:, None]  # where 1 is the larger of the two terms that are subtracted
    return values, {"scores": xp.where(confident, at_top, plain) * shares[:, None]}


@softmax_cross_entropy.diagonal
def _diagonal(rows: Rows) -> Array:
    """``p (1 - p)``; ``1 - p`` of the largest is summed from the others."""
    p = _probabilities(rows)
    total = 1 + p.others
    probabilities = p.terms / total[:, None]
    rest = _array.namespace(p.terms).where(p.top, (p.others / total)[:, None], 1 - probabilities)
    return probabilities * rest * _ops.row_sum(_masked_and_smoothed(rows))[:, None]


@softmax_cross_entropy.product
def _hessian_product(rows: Rows, v: Array) -> Array:
    """``p (v - p·v)``."""
    p = _probabilities(rows)
    probabilities = p.terms / (1 + p.others)[:, None]
    mass = _ops.row_sum(_masked_and_smoothed(rows))
    return probabilities * (v - _ops.row_sum(probabilities * v)[:, None]) * mass[:, None]


class _Probabilities(NamedTuple):
    """Exponentials measured from the row's largest score, whose own is 1."""

    distance: Array
    terms: Array
    top: Array
    others: Array


def _probabilities(rows: Rows) -> _Probabilities:
    scores = rows.scores if rows.mask is None else _ops.where(rows.mask, rows.scores, -math.inf, rows.scores)
    xp = _array.namespace(scores)
    largest = _ops.row_max(scores)[:, None]
    distance, error = _ops.exact_difference(scores, largest)
    infinite = xp.abs(largest) == math.inf
    at_infinity = _ops.where(scores == largest, 0.0, -math.inf, scores)
    distance = xp.where(infinite, at_infinity, distance)
    terms = xp.exp(distance)
    terms = terms + terms * error
    top = _ops.first_largest(scores)
    return _Probabilities(distance, terms, top, _ops.row_sum(_ops.where(top, 0.0, terms, terms)))


def _masked_and_smoothed(rows: Rows) -> Array:
    targets, mask = rows.labels, rows.mask
    if mask is not None:
        targets = _ops.where(mask, targets, 0.0, targets)
    if not rows.smoothing:
        return targets
    mass = _ops.row_sum(targets)
    if mask is None:
        even = (mass / targets.shape[-1])[:, None]
    else:
        counting = _array.namespace(mask).astype(mask, targets.dtype)
        count = _ops.row_sum(counting)
        even = counting * (mass / _ops.where(count == 0, 1.0, count, count))[:, None]
    return (1 - rows.smoothing) * targets + rows.smoothing * even
