"""The ZLPR loss: softmax cross-entropy carried over to several labels at once.

Two sums of exponentials, one over the classes that should stay below the threshold and one over those that should
rise above it, each closed by a logarithm. The algebra of value, gradient and Hessian, and why the sums are formed
as they are, is in ``docs/derivations/zlpr.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Labels, Split
from zlpr.rules._row_loss import THRESHOLD_REACH

__all__ = ["zlpr_loss"]


@row_loss(wrt=("scores", "threshold", "targets"), targets="multi-label")
def zlpr_loss(
    rows: Rows, shares: Array | None, *, threshold: float = 0.0, label_smoothing: float = 0.0
) -> tuple[Array, dict[str, Array]]:
    r"""ZLPR, the zero-bounded log-sum-exp and pairwise rank-based loss, in nats.

    .. math::

        L = \log\Big(1 + \sum_i (1 - t_i)\, e^{s_i - s_0}\Big) + \log\Big(1 + \sum_i t_i\, e^{s_0 - s_i}\Big)

    with scores :math:`s`, targets :math:`t` and threshold :math:`s_0`. Predict the classes with
    :math:`s_i > s_0`.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64. Half precisions are computed in float32.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1].
    threshold : float or (...) array, default 0.0
        :math:`s_0`, one for all rows or one a row. Differentiable.
    label_smoothing : float, default 0.0
        Replaces each target by ``(1 - label_smoothing) * t + label_smoothing / 2``.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts.
    axis : int, default -1
        The class axis.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats. At least float32 where reduced.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host, where reading values is free) a target is outside [0, 1];
        elsewhere such a row's loss and gradient are nan.

    Notes
    -----
    The value is within 4 ulp, and so is the gradient, in units of the largest entry of its row (of the larger of p
    and q for soft labels), however large or small the scores: a loss far below the rounding error of 1 keeps its
    digits. A threshold beyond ±16 rounds the scores once. A score of ``-inf`` on a negative class
    and of ``inf`` on a positive one contributes nothing; the other way round the loss is ``inf``, and the gradient
    is shared equally by the infinite scores. A nan score gives nan in its own row. A row without classes, or with
    all of them masked, has the loss 0. A class whose soft weight on a side is exactly 0 is absent there.

    References
    ----------
    .. [1] J. Su, M. Zhu, A. Murtadha, S. Pan, B. Wen, Y. Liu, "ZLPR: A Novel Loss for Multi-label Classification",
       arXiv:2208.02955, 2022.
    .. [2] J. Su, Scientific Spaces, posts 7359 (hard labels and threshold) and 9064 (soft labels).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_loss
    >>> scores = np.asarray([[1.5, -0.5, 0.25, -2.0, 3.0]])
    >>> targets = np.asarray([[1, 0, 1, 0, 0]])
    >>> value, gradient = zlpr_loss.value_and_grad(scores, targets)
    >>> print(round(float(value), 6), gradient.round(6))
    3.777278 [[-0.111457  0.027788 -0.389025  0.0062    0.920198]]
    """
    labels, split, negative, positive = _two_sides(rows, rows.labels)
    values = negative.log_total() + positive.log_total()
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "targets" in rows.needs:
        gradients["targets"] = _targets_gradient(rows, negative, positive) * shares[:, None]
    if "threshold" in rows.needs:
        gradients["threshold"] = _threshold_gradient(negative, positive) * shares
    if "scores" in rows.needs:
        gradients["scores"] = labels.scaled(split, shares * negative.scale(), -shares * positive.scale())
    return values, gradients


@zlpr_loss.diagonal
def _diagonal(rows: Rows) -> Array:
    """``p (1 - p) + q (1 - q)``, with p and q the shares of each class in the two sums."""
    _, split, negative, positive = _two_sides(rows, rows.labels.dense(), room=8.0)
    return negative.variances(split[0]) + positive.variances(split[1])


@zlpr_loss.product
def _hessian_product(rows: Rows, v: Array) -> Array:
    """``p (v - p·v) + q (v - q·v)``."""
    _, split, negative, positive = _two_sides(rows, rows.labels.dense())
    p = split[0] * negative.scale()[:, None]
    q = split[1] * positive.scale()[:, None]
    return p * (v - _ops.row_sum(p * v)[:, None]) + q * (v - _ops.row_sum(q * v)[:, None])


_PLAINLY_FINITE = 1e30


class _Side(NamedTuple):
    """One of the two sums: ``1 + factor * exp(shift) * terms_sum``; shift and factor None for 0 and 1."""

    terms_sum: Array
    shift: Array | None
    factor: Array | None

    def weighted_sum(self) -> Array:
        return self.terms_sum if self.factor is None else self.terms_sum * self.factor

    def log_total(self) -> Array:
        """``log(1 + Σ)`` to full relative precision, however small the sum."""
        xp = _array.namespace(self.terms_sum)
        if self.shift is None:
            return xp.log1p(self.weighted_sum())
        shifted = self.shift + xp.log1p(self.weighted_sum() + xp.expm1(-self.shift))
        root = xp.exp(0.5 * self.shift)
        plain = self.weighted_sum() * root * root
        total = self.total()
        small = xp.where(plain < _PLAINLY_FINITE, xp.log1p(plain), self.shift + xp.log(total))
        return xp.where(total < 1, small, shifted)  # a soft weight may be tiny where its exponent is large

    def total(self) -> Array:
        """``(1 + Σ) exp(-shift)``."""
        if self.shift is None:
            return 1 + self.weighted_sum()
        return self.weighted_sum() + _array.namespace(self.terms_sum).exp(-self.shift)

    def scale(self) -> Array:
        """What a term is multiplied by to give its share of the total."""
        return 1 / self.total() if self.factor is None else self.factor / self.total()

    def one(self) -> Array | float:
        """The 1 of ``1 + Σ``, times ``exp(-shift)``."""
        return 1.0 if self.shift is None else _array.namespace(self.shift).exp(-self.shift)

    def variances(self, terms: Array) -> Array:
        """``p (1 - p)`` of each term; ``1 - p`` of the largest one is summed from the others."""
        xp = _array.namespace(terms)
        terms = terms if self.factor is None else terms * self.factor[:, None]
        p = terms / self.total()[:, None]
        top = _ops.first_largest(terms)
        others = _ops.row_sum(_ops.where(top, 0.0, terms, terms))
        rest = (self.one() + others) / self.total()
        return p * xp.where(top, rest[:, None], 1 - p)


def _two_sides(rows: Rows, labels: Labels, room: float | None = None) -> tuple[Labels, Split, _Side, _Side]:
    """The terms ``exp(±s - shift)`` of each side and their sums, `room` in the exponent below overflow."""
    z = labels.exponents(rows.scores, rows.buffer)
    if rows.mask is not None:
        z = labels.counting(z, rows.mask)
    labels, z, shifts = _shifted(rows, labels, z, room)
    split = labels.split(_ops.exp_(z))
    sums = labels.sums(split)
    factors = _threshold_factors(rows.threshold)
    negative, positive = (_Side(*side) for side in zip(sums, shifts, factors, strict=True))
    return labels, split, negative, positive


def _shifted(
    rows: Rows, labels: Labels, z: Array, room: float | None
) -> tuple[Labels, Array, tuple[Array | None, Array | None]]:
    """Exponents lowered, side by side, only as far as overflow demands.

    Shifts are whole numbers, so that taking them off an exponent near the largest is exact. By default half the
    range of the dtype is left to the gradient's other factors: one over a total near overflow would be subnormal.
    """
    xp, log_max = _array.namespace(z), _ops.log_max(z)
    limit = log_max - math.log(z.shape[-1] + 1) - (log_max / 2 if room is None else room)
    if rows.threshold is not None:
        limit -= THRESHOLD_REACH
    if 0 in z.shape or (rows.host and float(xp.max(z)) <= limit):
        return labels, z, (None, None)
    labels = labels.dense()
    z = labels.counting(labels.exponents(rows.scores, None), rows.mask)
    negative, positive = (xp.ceil(_ops.relu(top - limit)) for top in labels.tops(z))
    shift = labels.spread(negative, positive)
    at_infinity = _ops.where(z == math.inf, 0.0, -math.inf, z)
    return labels, xp.where(shift == math.inf, at_infinity, z - shift), (negative, positive)


def _threshold_factors(threshold: Array | None) -> tuple[Array | None, Array | None]:
    if threshold is None:
        return None, None
    xp = _array.namespace(threshold)
    return xp.exp(-threshold), xp.exp(threshold)


def _threshold_gradient(negative: _Side, positive: _Side) -> Array:
    """``p_0 - q_0``, the shares of the 1 in either total, with one subtraction over a common denominator."""
    difference = negative.one() * positive.weighted_sum() - positive.one() * negative.weighted_sum()
    return difference / negative.total() / positive.total()


def _targets_gradient(rows: Rows, negative: _Side, positive: _Side) -> Array:
    """``e^(s0 - s) / B - e^(s - s0) / A``, A and B the totals of the negative and of the positive side."""
    xp = _array.namespace(rows.scores)
    above = rows.scores if rows.threshold is None else rows.scores - rows.threshold[:, None]
    in_positive = xp.exp(_finite(-above) - _finite(positive.log_total())[:, None])
    in_negative = xp.exp(_finite(above) - _finite(negative.log_total())[:, None])
    slope = (in_positive - in_negative) * (1 - rows.smoothing)
    return slope if rows.mask is None else _ops.where(rows.mask, slope, 0.0, slope)


def _finite(x: Array) -> Array:
    """The largest finite number for infinity, so that one infinity less another is 0."""
    largest = math.exp(_ops.log_max(x)) * (1 - 1e-6)
    x = _ops.where(x > largest, largest, x, x)
    return _ops.where(x < -largest, -largest, x, x)
