"""The ZLPR loss: softmax cross-entropy carried over to several labels at once.

Two sums of exponentials, one over the classes that should stay below the threshold and one over those that should
rise above it, each closed by a logarithm. The algebra of value, gradient and Hessian, and why the sums are formed
as they are, is in ``docs/derivations/zlpr.md``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._call import THRESHOLD_REACH, Reduction
from zlpr.rules._labels import AnyLabels, Labels, Paired, Split, Weighted

__all__ = ["sparse_zlpr_loss", "zlpr_loss", "zlpr_minimum"]


@row_loss(wrt=("scores", "threshold", "targets"), targets="multi-label")
def zlpr_loss(
    rows: Rows,
    shares: Array | None,
    *,
    threshold: Any = 0.0,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    class_weight: Array | None = None,
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
    temperature : float, default 1.0
        :math:`\tau` in :math:`\tau L(s / \tau)`. Towards 0, only the worst class of either side counts.
    class_weight : (C,) array, optional
        Positive weights of the exponentials, which is a margin of the logarithm of the weight for each class: that
        much a negative class has to stay further below the threshold, and a positive one further above.
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
    digits. Class weights cost one ulp more. A score of ``-inf`` on a negative class and of ``inf`` on a positive one
    contributes nothing; the other way round the loss is ``inf``, and the gradient is shared equally by the infinite
    scores. A nan score gives nan in its own row. A row without classes, or with all of them masked, has the loss 0.
    A class whose soft weight on a side is exactly 0 is absent there.

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
    return _value_and_gradients(rows, shares)


@row_loss(wrt=("scores", "threshold"), targets="positives")
def sparse_zlpr_loss(
    rows: Rows,
    shares: Array | None,
    *,
    padding: int = -1,
    threshold: Any = 0.0,
    temperature: float = 1.0,
    class_weight: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    r"""ZLPR of labels given as the indices of each row's few positive classes, in nats.

    .. math::

        L = \log\Big(1 + \sum_{i \notin P} e^{s_i - s_0}\Big) + \log\Big(1 + \sum_{j \in P} e^{s_0 - s_j}\Big)

    with scores :math:`s`, positives :math:`P` and threshold :math:`s_0`: `zlpr_loss`, without a label a class.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64. Half precisions are computed in float32.
    positives : (..., K) array, or SciPy sparse matrix
        Integer class indices; unused places hold `padding`, and an index that is repeated counts once. Or, beside
        (B, C) scores in host memory, a (B, C) sparse matrix of 0 and 1, best in CSR form.
    padding : int, default -1
        What marks an unused place. A class of that index can never be positive.
    threshold : float or (...) array, default 0.0
        :math:`s_0`, one for all rows or one a row. Differentiable.
    temperature : float, default 1.0
        As for `zlpr_loss`.
    class_weight : (C,) array, optional
        As for `zlpr_loss`.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts.
    axis : int, default -1
        The class axis of the scores. The indices lie along the last axis of `positives`.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats. At least float32 where reduced.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host) an index is neither a class nor the padding; elsewhere such a
        row's loss and gradient are nan.

    Notes
    -----
    The positives are set aside before the negatives are summed. The usual form sums all classes and subtracts the
    positives again: from a margin of 15 on, it is negative in float32 and pushes positives down. Value and gradient
    are within 4 ulp, as those of `zlpr_loss`. On the host, memory is the gradient and a block.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 8888 (the sparse form).
    .. [2] J. Su et al., "ZLPR: A Novel Loss for Multi-label Classification", arXiv:2208.02955, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import sparse_zlpr_loss
    >>> scores = np.asarray([[1.5, -0.5, 0.25, -2.0, 3.0]])
    >>> value, gradient = sparse_zlpr_loss.value_and_grad(scores, np.asarray([[0, 2, -1]]))
    >>> print(round(float(value), 6), gradient.round(6))
    3.777278 [[-0.111457  0.027788 -0.389025  0.0062    0.920198]]
    """
    return _value_and_gradients(rows, shares)


def zlpr_minimum(
    targets: Array,
    *,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    class_weight: Array | None = None,
    reduction: Reduction = "mean",
    sample_weight: Array | None = None,
    mask: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""The least value that `zlpr_loss` can have for these targets, whatever the scores, in nats.

    .. math::

        \min_s L(s, t) = 2 \log\Big(1 + \sum_i \sqrt{t_i (1 - t_i)}\Big)
        \quad\text{at}\quad s_i = s_0 + \tfrac12 \log\frac{t_i}{1 - t_i}

    Take it off the loss of soft or smoothed labels to see what is left to learn: the excess is never negative, and 0
    where :math:`\sigma(2 (s - s_0)) = t`.

    Parameters
    ----------
    targets : (..., C) array
        As for `zlpr_loss`. The minimum of hard labels is 0.
    label_smoothing, temperature, class_weight, reduction, sample_weight, mask, axis
        As for `zlpr_loss`.

    Returns
    -------
    minimum : array
        0-d, or (...) for ``reduction="none"``; nats, in the dtype of soft targets, and for hard ones in the default
        floating dtype of their library.

    Raises
    ------
    TypeError, ValueError
        As for `zlpr_loss`.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 9064 (soft labels and their optimum).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_loss, zlpr_minimum
    >>> targets, scores = np.asarray([[True, False]]), np.asarray([[4.0, -4.0]])
    >>> loss, floor = zlpr_loss(scores, targets, label_smoothing=0.1), zlpr_minimum(targets, label_smoothing=0.1)
    >>> print(f"{loss:.4f} of which {loss - floor:.4f} can be saved")
    2.6421 of which 1.9185 can be saved
    """
    _array.require_array("targets", targets)
    xp = _array.namespace(targets)
    dtype = {"dtype": targets.dtype} if _array.kind(targets) == "floating" else {}
    scores = xp.zeros(targets.shape, device=_array.device(targets), **dtype)
    return _minimum(
        scores,
        targets,
        label_smoothing=label_smoothing,
        temperature=temperature,
        class_weight=class_weight,
        reduction=reduction,
        sample_weight=sample_weight,
        mask=mask,
        axis=axis,
    )


@row_loss(wrt=("scores",), targets="multi-label")
def _minimum(
    rows: Rows,
    shares: Array | None,
    *,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    class_weight: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """The minimum over the scores, which are not read."""
    xp = _array.namespace(rows.scores)
    labels = rows.labels.dense()
    if not isinstance(labels, Weighted):
        return _ops.row_sum(rows.scores), {}  # hard labels
    negative, positive = labels.sides(labels.weights)
    return 2 * xp.log1p(_ops.row_sum(rows.counted(xp.sqrt(negative * positive)))), {}


def _value_and_gradients(rows: Rows, shares: Array | None) -> tuple[Array, dict[str, Array]]:
    labels = rows.labels
    if rows.host and rows.mask is None and "targets" not in rows.needs:
        labels = labels.of_moderate_exponents()
    labels, split, negative, positive = _two_sides(rows, labels)
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
@sparse_zlpr_loss.diagonal
def _diagonal(rows: Rows) -> Array:
    """``p (1 - p) + q (1 - q)``, with p and q the shares of each class in the two sums."""
    _, split, negative, positive = _two_sides(rows, rows.labels.dense(), room=8.0)
    return negative.variances(split[0]) + positive.variances(split[1])


@zlpr_loss.product
@sparse_zlpr_loss.product
def _hessian_product(rows: Rows, v: Array) -> Array:
    """``p (v - p·v) + q (v - q·v)``."""
    _, split, negative, positive = _two_sides(rows, rows.labels.dense())
    return negative.product(split[0], v) + positive.product(split[1], v)


_PLAINLY_FINITE = 1e30


class _Side(NamedTuple):
    """One of the two sums: ``1 + factor * exp(shift) * terms_sum``; shift and factor None for 0 and 1."""

    terms_sum: Array
    shift: Array | None
    factor: Array | None
    shift_low: Array | None
    """what rounding took off the shift"""

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

    def product(self, terms: Array, v: Array) -> Array:
        """``p (v - p·v)`` with the share p of each term."""
        p = terms * self.scale()[:, None]
        return p * _ops.centred(p, v, self.one() / self.total())

    def variances(self, terms: Array) -> Array:
        """``p (1 - p)`` of each term; ``1 - p`` of the largest one is summed from the others."""
        xp = _array.namespace(terms)
        terms = terms if self.factor is None else terms * self.factor[:, None]
        p = terms / self.total()[:, None]
        top = _ops.first_largest(terms)
        others = _ops.row_sum(_ops.where(top, 0.0, terms, terms))
        rest = (self.one() + others) / self.total()
        return p * xp.where(top, rest[:, None], 1 - p)


def _two_sides(
    rows: Rows, labels: AnyLabels, room: float | None = None
) -> tuple[AnyLabels, Split, _Side, _Side]:
    """The terms ``exp(±s - shift)`` of each side and their sums, `room` in the exponent below overflow."""
    z = labels.exponents(rows.scores, rows.buffer)
    if rows.mask is not None:
        assert not isinstance(labels, Paired)  # which a masked block never is
        z = labels.counting(z, rows.mask)
    limit = _limit(rows, labels, z, room)
    labels, z, shifts = _shifted(rows, labels, z, limit)
    lost: tuple[Array, Array] | tuple[None, None] = (None, None)
    low = None if rows.low is None else labels.exponents(rows.low, None)
    if low is not None and not rows.is_first_order(low):
        z, low = _ops.exact_difference(z, -low)
        if shifts[0] is not None:
            assert not isinstance(labels, Paired)  # which nothing is taken off
            z, more = _lowered(labels, z, limit, shifts)
            of_negatives, of_positives = map(_ops.exact_difference, shifts, (-more[0], -more[1]))
            shifts, lost = (of_negatives[0], of_positives[0]), (of_negatives[1], of_positives[1])
    terms = _ops.exp_(z)
    if low is not None:
        terms = _ops.nudged_(terms, low)
    split, sums = labels.split(terms)
    factors = _threshold_factors(rows.threshold)
    negative, positive = (_Side(*parts) for parts in zip(sums, shifts, factors, lost, strict=True))
    return labels, split, negative, positive


def _limit(rows: Rows, labels: AnyLabels, z: Array, room: float | None) -> Array | float:
    """What exponents may reach, `room` below overflow; those of rows without classes, anything.

    By default half the range of the dtype is left to the gradient's other factors: one over a total near overflow
    would be subnormal.
    """
    log_max = _ops.log_max(z)
    if 0 in z.shape:
        return math.inf
    limit = log_max - math.log(z.shape[-1] + 1) - (log_max / 2 if room is None else room) - labels.headroom()
    return limit if rows.threshold is None else limit - THRESHOLD_REACH


def _shifted(
    rows: Rows, labels: AnyLabels, z: Array, limit: Array | float
) -> tuple[AnyLabels, Array, tuple[Array, Array] | tuple[None, None]]:
    """Exponents lowered, side by side, only as far as overflow demands."""
    if 0 in z.shape or (rows.host and float(labels.peak(z)) <= limit):
        return labels, z, (None, None)
    labels = labels.dense()
    return labels, *_lowered(labels, labels.counting(labels.exponents(rows.scores, None), rows.mask), limit)


def _lowered(
    labels: Labels, z: Array, limit: Array | float, taken: tuple[Array, Array] | None = None
) -> tuple[Array, tuple[Array, Array]]:
    """Exponents less what their side is above the limit, and that; no more is given back than was taken before.

    It is a whole number, so that taking it off an exponent near the largest is exact.
    """
    xp = _array.namespace(z)
    above = tuple(top - limit for top in labels.tops(z))
    if taken is None:
        above = tuple(map(_ops.relu, above))
    else:
        above = xp.maximum(above[0], -taken[0]), xp.maximum(above[1], -taken[1])
    negative, positive = map(xp.ceil, above)
    shift = labels.spread(negative, positive)
    at_infinity = _ops.where(z == math.inf, 0.0, -math.inf, z)
    return xp.where(shift == math.inf, at_infinity, z - shift), (negative, positive)


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
    """``w (e^(s0 - s) / B - e^(s - s0) / A)``, A and B the totals of the negative and of the positive side."""
    scores, low = rows.scores, rows.low
    in_negative, in_positive = rows.labels.sides(rows.labels.weights)
    slope = _over_total(-scores, None if low is None else -low, in_positive, positive)
    slope = slope - _over_total(scores, low, in_negative, negative)
    slope = slope * (1 - rows.smoothing)
    return rows.counted(slope if rows.class_weight is None else slope * rows.class_weight)


def _over_total(exponents: Array, low: Array | None, weights: Array, side: _Side) -> Array:
    """Exponentials over the total of a side; where that is infinite, the limit as infinite ones grow together."""
    xp = _array.namespace(exponents)
    distance, lost = exponents, low
    if side.shift is not None:
        distance, lost = _ops.exact_difference(exponents, side.shift[:, None])
        if side.shift_low is not None:
            distance, lost = _less(distance, lost, side.shift_low[:, None])
        if low is not None:
            distance, lost = _less(distance, lost, -low)
    shares = xp.exp(_ops.clip(distance, -math.inf, _ops.log_max(distance)))
    shares = shares if lost is None else _ops.nudged_(shares, lost)
    shares = _ops.where(distance > _ops.log_max(distance), math.inf, shares, shares) * side.scale()[:, None]
    infinite = exponents == math.inf
    held = _ops.row_sum(_ops.where(infinite, weights, 0.0, weights))[:, None]
    return xp.where(infinite, 1 / held, shares)


def _less(x: Array, low: Array, by: Array) -> tuple[Array, Array]:
    """``x + low - by``, in two numbers again."""
    x, more = _ops.exact_difference(x, by)
    return x, low + more
