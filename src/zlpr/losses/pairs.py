"""Losses of the pairs of a negative and a positive class: log-sum-exp pairwise loss and circle loss.

One formula serves them, ``log(1 + Σ e^u Σ e^v)`` with an exponent for each negative and each positive class; a sum
over all pairs is a product of two sums. The algebra is in ``docs/derivations/pairs.md``.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, Protocol

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Labels, Split

__all__ = ["circle_loss", "lsep_loss"]

Weighting = Literal["circle", "unified"]


@row_loss(wrt=("scores",), targets="multi-label")
def lsep_loss(
    rows: Rows, shares: Array | None, *, label_smoothing: float = 0.0
) -> tuple[Array, dict[str, Array]]:
    r"""Log-sum-exp pairwise loss: every positive class above every negative one, in nats.

    .. math::

        L = \log\Big(1 + \sum_{i \in N} \sum_{j \in P} e^{s_i - s_j}\Big)

    with scores :math:`s`, negatives :math:`N` and positives :math:`P`. `circle_loss` of unified weighting with the
    scale 1 and no margin; softmax cross-entropy where one class is positive.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1]; then a class is on both sides, its exponentials
        weighted with ``1 - t`` and ``t``.
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
        0-d, or (...) for ``reduction="none"``; nats.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host) a target is outside [0, 1]; elsewhere such a row is nan.

    Notes
    -----
    The work grows with the classes, not with the pairs. Value and gradient of hard labels are within 4 ulp of the
    row's largest entry at any scores, and a constant added to a row's scores changes nothing. A row without negatives
    or without positives has the loss 0 and the gradient 0: such rows train nothing, unlike those of `zlpr_loss`. A
    class at ``inf`` on its right side is in no pair.

    References
    ----------
    .. [1] Y. Li, Y. Song, J. Luo, "Improving Pairwise Ranking for Multi-label Image Classification",
       arXiv:1704.03135, 2017, eq. 5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import lsep_loss
    >>> value, gradient = lsep_loss.value_and_grad(np.asarray([[0.0, 0.0, 0.0]]), np.asarray([[1, 0, 0]]))
    >>> print(round(float(value), 6), gradient.round(6))  # log(3): two pairs
    1.098612 [[-0.666667  0.333333  0.333333]]
    """
    return _value_and_gradient(rows, shares, _Linear(1.0, 0.0))


@lsep_loss.diagonal
def _lsep_diagonal(rows: Rows) -> Array:
    return _diagonal(rows, _Linear(1.0, 0.0))


@lsep_loss.product
def _lsep_product(rows: Rows, v: Array) -> Array:
    return _hessian_product(rows, v, _Linear(1.0, 0.0))


@row_loss(wrt=("scores",), targets="multi-label", workspace=2.0)
def circle_loss(
    rows: Rows,
    shares: Array | None,
    *,
    margin: float = 0.25,
    scale: float = 256.0,
    weighting: Weighting = "circle",
    detach_weights: bool = True,
    label_smoothing: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    r"""Circle loss, or the unified pair loss it is derived from, in nats.

    .. math::

        L = \log\Big(1 + \sum_{i \in N} e^{\gamma \alpha_i (s_i - m)}
            \sum_{j \in P} e^{-\gamma \alpha_j (s_j - 1 + m)}\Big), \qquad
        \alpha_i = \max(s_i + m, 0), \quad \alpha_j = \max(1 + m - s_j, 0)

    with scores :math:`s` (cosine similarities, as a rule), negatives :math:`N`, positives :math:`P`, the margin
    :math:`m` and the scale :math:`\gamma`; or, for ``weighting="unified"``,

    .. math::

        L = \log\Big(1 + \sum_{i \in N} e^{\gamma (s_i + m)} \sum_{j \in P} e^{-\gamma s_j}\Big) .

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1]; then a class is on both sides, its exponentials
        weighted with ``1 - t`` and ``t``.
    margin : float, default 0.25
        :math:`m`, finite.
    scale : float, default 256.0
        :math:`\gamma`, positive.
    weighting : {"circle", "unified"}, default "circle"
        Whether each exponent has a weight that grows with its distance from where the score should be.
    detach_weights : bool, default True
        Whether gradient and Hessian hold the weights :math:`\alpha` constant, as the authors do. False for the
        derivatives of the value. Without effect on unified weighting.
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
        0-d, or (...) for ``reduction="none"``; nats.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, if an option is out of range, or (on the host) a target is outside [0, 1];
        elsewhere such a row is nan.

    Notes
    -----
    Exponents are of the size of the scale, and a rounded exponent would cost as many ulp as it has units: what
    rounding takes off them is carried along, and value and gradient of hard labels are within 6 ulp of the row's
    largest entry. A row without negatives or without positives has the loss 0 and the gradient 0. With constant
    weights the gradient is no derivative of the value, and PyTorch's and JAX's second derivatives are those of the
    gradient, weights and all; `hvp` holds them constant.

    References
    ----------
    .. [1] Y. Sun, C. Cheng, Y. Zhang, C. Zhang, L. Zheng, Z. Wang, Y. Wei, "Circle Loss: A Unified Perspective of Pair
       Similarity Optimization", arXiv:2002.10857, 2020, eq. 1 (unified) and 4 to 6.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import circle_loss
    >>> scores, targets = np.asarray([[0.75, 0.25]]), np.asarray([[1, 0]])  # where both should be: two exponents of 0
    >>> value, gradient = circle_loss.value_and_grad(scores, targets)
    >>> print(round(float(value), 6), gradient)  # log(2), and 256 * 0.5 / 2
    0.693147 [[-64.  64.]]
    """
    return _value_and_gradient(rows, shares, _form(margin, scale, weighting, detach_weights))


@circle_loss.diagonal
def _circle_diagonal(
    rows: Rows, *, margin: float, scale: float, weighting: Weighting, detach_weights: bool
) -> Array:
    return _diagonal(rows, _form(margin, scale, weighting, detach_weights))


@circle_loss.product
def _circle_product(
    rows: Rows, v: Array, *, margin: float, scale: float, weighting: Weighting, detach_weights: bool
) -> Array:
    return _hessian_product(rows, v, _form(margin, scale, weighting, detach_weights))


class _Exponents(NamedTuple):
    """An exponent a class and side, and its derivatives along the score of a negative, against that of a positive.

    The derivatives are in units of the scale.
    """

    z: Array
    low: Array | None
    """what rounding took off z"""
    slope: Array | None
    """1 where it is None"""
    bend: Array | None
    """0 where it is None"""


class _Form(Protocol):
    """How scores become exponents."""

    scale: float
    constant: tuple[float, float]
    """what all pairs' exponents have in addition: a whole number and a rest"""
    cancelled: float
    """how large is what exponents are differences of, beside themselves"""
    is_linear: bool
    is_moderate: bool
    """whether moderate scores cannot make it overflow"""

    def exponents(self, labels: Labels, scores: Array, buffer: Array | None, is_plain: bool) -> _Exponents:
        """Exponents of the scores, plain where these are known to be far from overflow even when squared."""


class _Linear:
    """``γ (s + m)`` and ``-γ s``."""

    is_linear, cancelled = True, 0.0

    def __init__(self, scale: float, margin: float) -> None:
        self.is_moderate = scale != 1 and scale < _PLAIN**2  # else nothing asks
        self.scale, self.constant = scale, _constants.whole_and_rest(_constants.product(scale, margin))

    def exponents(self, labels: Labels, scores: Array, buffer: Array | None, is_plain: bool) -> _Exponents:
        if self.scale == 1:
            return _Exponents(labels.exponents(scores, buffer), None, None, None)
        scaled, low = _ops.exact_product(scores, self.scale, is_finite=is_plain)
        low = None if low is None else labels.exponents(low, None)
        return _Exponents(labels.exponents(scaled, buffer), low, None, None)


class _Circle:
    """``γ max(x + m, 0) (x - m)`` with x = s for a negative and 1 - s for a positive class."""

    is_linear, constant = False, (0.0, 0.0)

    def __init__(self, scale: float, margin: float, detach: bool) -> None:
        self.scale, self.margin, self.detach = scale, margin, detach
        self.cancelled = scale * margin * margin
        self.is_moderate = scale < _PLAIN**2 and abs(margin) < _PLAIN

    def exponents(self, labels: Labels, scores: Array, buffer: Array | None, is_plain: bool) -> _Exponents:
        xp = _array.namespace(scores)
        exponents = labels.exponents(scores, None)
        x, x_low = _ops.exact_difference(exponents, labels.constants(0.0, -1.0, scores), is_finite=is_plain)
        margin, margin_low = _constants.rounded(self.margin.as_integer_ratio(), x)
        weight = (x + margin) + (x_low + margin_low)
        square, square_low = _ops.exact_square(x, is_finite=is_plain)
        limit, limit_low = _constants.rounded(_constants.product(self.margin, self.margin), x)
        limit_at = xp.full((1, 1), limit, dtype=x.dtype, device=_array.device(x))
        high, low = _ops.exact_difference(square, limit_at, is_finite=is_plain)
        low = low + ((square_low - limit_low) + 2.0 * x * x_low)
        z, z_low = _ops.exact_product(high, self.scale, is_finite=is_plain)
        z_low = self.scale * low if z_low is None else z_low + self.scale * low
        active = _array.as_dtype(weight > 0, x.dtype)

        def where_active(x: Array) -> Array:
            return _ops.multiply_(x, active) if is_plain else _ops.where(weight <= 0, 0.0, x, x)

        z, z_low = where_active(z), where_active(z_low)
        if not is_plain:
            z_low = _ops.where(z == math.inf, 0.0, z_low, z)
        if self.detach:
            return _Exponents(z, z_low, _ops.relu(weight), None)
        return _Exponents(z, z_low, where_active(2.0 * x), 2.0 * active)


def _form(margin: Any, scale: Any, weighting: str, detach_weights: bool) -> _Form:
    if not _constants.is_number(margin) or not math.isfinite(margin):
        raise ValueError(f"margin must be a finite number, got {margin!r}")
    if not _constants.is_number(scale) or not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive finite number, got {scale!r}")
    if weighting not in ("circle", "unified"):
        raise ValueError(f'weighting must be "circle" or "unified", not {weighting!r}')
    if weighting == "unified":
        return _Linear(float(scale), float(margin))
    return _Circle(float(scale), float(margin), bool(detach_weights))


_SURE = 40.0  # a sum of e^40 and 1 is e^40 in every dtype


class _Pairs(NamedTuple):
    """The terms ``e^(z - shift)`` of both sides, and the sum over all pairs as ``growth`` times theirs.

    Of the sum, e^excess is taken out and off the 1 beside it, which leaves `one`.
    """

    labels: Labels
    exponents: _Exponents
    split: Split
    sums: Split
    growth: Array | float
    excess: Array | None
    finite: bool
    """whether all exponents are known to be"""

    def pairs(self) -> Array:
        return self.growth * self.sums[0] * self.sums[1]

    def one(self) -> Array | float:
        return 1.0 if self.excess is None else _array.namespace(self.excess).exp(-self.excess)

    def total(self) -> Array:
        """``(1 + Σ) e^-excess``."""
        return self.pairs() + self.one()

    def values(self) -> Array:
        """``log(1 + Σ)``; under an excess Σ is far above 1, unless soft weights are tiny."""
        xp = _array.namespace(self.sums[0])
        pairs = self.pairs()
        if self.excess is None:
            return xp.log1p(pairs)
        reach = 0.4 * _ops.log_max(pairs)
        root = xp.exp(0.5 * _ops.clip(self.excess, 0.0, reach))
        plain = pairs * root * root
        is_plain = (plain < 1) & (self.excess < reach)
        return xp.where(is_plain, xp.log1p(plain), self.excess + xp.log(pairs + self.one()))

    def scales(self) -> Split:
        """What a term of the negative and of the positive side is multiplied by to give its share of the total."""
        negatives, positives = self.sums
        return self._scale(negatives, positives), self._scale(positives, negatives)

    def _scale(self, own: Array, other: Array) -> Array:
        """``g S' / (1 + g S S')`` as ``1 / (S + 1 / (g S'))``, which rounds less often; 0 where S' is."""
        pull = self.growth * other
        none = _array.as_dtype(pull == 0, own.dtype)
        return (1.0 - none) / (own + self.one() / (pull + none))

    def coupling(self) -> Array:
        """What the product of two terms of different sides is multiplied by to give their exponents' covariance."""
        total = self.total()
        return (self.growth / total) * (self.one() / total)

    def slopes(self) -> tuple[Any, Any]:
        """Derivatives of the exponents as the split terms are laid out, in units of the scale."""
        slope = self.exponents.slope
        return (1.0, 1.0) if slope is None else self.labels.sides(slope)

    def bends(self) -> tuple[Any, Any]:
        bend = self.exponents.bend
        return (0.0, 0.0) if bend is None else self.labels.sides(bend)


def _value_and_gradient(rows: Rows, shares: Array | None, form: _Form) -> tuple[Array, dict[str, Array]]:
    pairs = _pairs(rows, rows.labels, form)
    values = pairs.values()
    if shares is None:
        return values, {}
    of_negatives, of_positives = (scale * (form.scale * shares) for scale in pairs.scales())
    split = pairs.split
    if pairs.exponents.slope is not None:
        negatives, positives = pairs.slopes()
        split = split[0] * negatives, split[1] * positives
        if not pairs.finite:  # an infinite slope counts nothing where the other side is empty
            split = (
                _ops.where((of_negatives == 0)[:, None], 0.0, split[0], split[0]),
                _ops.where((of_positives == 0)[:, None], 0.0, split[1], split[1]),
            )
    return values, {"scores": pairs.labels.scaled(split, of_negatives, -of_positives)}


def _diagonal(rows: Rows, form: _Form) -> Array:
    """``z'^2 π (1 - π) + z'' π`` of both sides, π the share of a class in the total; less what couples them in it."""
    pairs = _pairs(rows, rows.labels.dense(), form, far_count=True)
    slopes, gamma = pairs.slopes(), form.scale
    none = pairs.one() / pairs.total()
    coupled = pairs.split[0] * pairs.split[1] * pairs.coupling()[:, None]
    diagonal = (-2.0 * gamma) * (slopes[0] * coupled) * slopes[1]
    for terms, scale, slope, bend in zip(pairs.split, pairs.scales(), slopes, pairs.bends(), strict=True):
        share = terms * scale[:, None]
        top = _ops.first_largest(terms)
        others = _ops.row_sum(_ops.where(top, 0.0, terms, terms)) * scale + none
        variance = share * _ops.where(top, others[:, None], 1.0 - share, share)
        diagonal = diagonal + gamma * slope * (slope * variance) + bend * share
    return gamma * diagonal


def _hessian_product(rows: Rows, v: Array, form: _Form) -> Array:
    """``π (v - π·v)`` on either side, and the coupling of the sides, all in the exponents and back in the scores."""
    pairs = _pairs(rows, rows.labels.dense(), form, far_count=True)
    coupling, gamma = pairs.coupling(), form.scale
    (terms_n, terms_p), (slope_n, slope_p), (bend_n, bend_p) = pairs.split, pairs.slopes(), pairs.bends()
    share_n, share_p = (t * scale[:, None] for t, scale in zip(pairs.split, pairs.scales(), strict=True))
    along_n, along_p = slope_n * v, -(slope_p * v)
    from_n = (coupling * _ops.row_sum(terms_n * along_n))[:, None]
    from_p = (coupling * _ops.row_sum(terms_p * along_p))[:, None]
    none = pairs.one() / pairs.total()
    product_n = share_n * _ops.centred(share_n, along_n, none) + terms_n * from_p
    product_p = share_p * _ops.centred(share_p, along_p, none) + terms_p * from_n
    bent = (bend_n * share_n + bend_p * share_p) * v
    return gamma * (gamma * (slope_n * product_n - slope_p * product_p) + bent)


def _pairs(rows: Rows, labels: Labels, form: _Form, far_count: bool = False) -> _Pairs:
    xp = _array.namespace(rows.scores)
    whole, rest = form.constant
    scores = rows.scores if form.is_linear else rows.counted(rows.scores)
    is_plain = form.is_moderate and rows.lies_within(_PLAIN, scores)
    exponents = form.exponents(labels, scores, rows.buffer, is_plain)
    largest = _largest_if_free(rows, exponents.z)
    if largest <= _room(exponents.z, whole) and form.cancelled < _CANCELLED:
        z, low, growth, excess = exponents.z, exponents.low, math.exp(whole + rest), None
    else:
        if not largest < math.inf and labels is not labels.dense():
            labels = labels.dense()
            exponents = form.exponents(labels, scores, None, is_plain)
        is_finite = is_plain and rows.mask is None
        z, low, total, factor = _lowered(rows, labels, exponents, whole, far_count, is_finite)
        excess = _ops.relu(total - _SURE)
        growth = xp.exp(_ops.clip(total, -2.0 * _ops.log_max(z), _SURE)) * (factor * math.exp(rest))
    terms = _ops.exp_(z)
    if low is not None:
        terms = _ops.nudged_(terms, low, is_small=rows.lies_within(0.5, low))
    split, sums = labels.split(terms)
    return _Pairs(labels, exponents, split, sums, growth, excess, largest < math.inf)


def _largest_if_free(rows: Rows, z: Array) -> float:
    """The size of the largest exponent, where reading it costs nothing and all count; not less than any, elsewhere."""
    if not rows.host or rows.mask is not None:
        return math.inf
    return float(_ops.extent(z)) if 0 not in z.shape else 0.0


def _room(z: Array, whole: float) -> float:
    """Exponents so small need no shift: their sums' product is far from overflow and from underflow."""
    return 0.45 * _ops.log_max(z) - 0.5 * abs(whole) - math.log(z.shape[-1] + 1)


_PLAIN = 1e6  # scores so small may be squared and scaled in every dtype
_CANCELLED = 500.0  # of this size, the square of what rounding takes off is below the last digit in float32


class _Lowered(NamedTuple):
    """Exponents less the largest of their side, rounded up, and what rounding took off them, far below 1.

    What was taken off both sides together, and all pairs have in addition, is a whole number and the logarithm of a
    factor; 0 and any where a side is empty.
    """

    z: Array
    low: Array | None
    whole: Array
    factor: Array | float


def _lowered(
    rows: Rows, labels: Labels, exponents: _Exponents, whole: float, far_count: bool, is_finite: bool
) -> _Lowered:
    """What is taken off is whole, so that nothing is rounded in exponents near the largest.

    Of those far below, which count where the largest adds nothing, as in a curvature, the error is found. A side
    without terms has nothing taken off.
    """
    xp = _array.namespace(exponents.z)
    z, low = labels.counting(exponents.z, rows.mask), exponents.low
    tops = labels.tops(z)
    negative, positive = (xp.ceil(_ops.where(top == -math.inf, 0.0, top, top)) for top in tops)
    taken, factor = negative + positive + whole, 1.0
    shift = labels.spread(negative, positive)
    lowered, error = _ops.exact_difference(z, shift) if far_count else (z - shift, None)
    if not rows.host or bool(xp.any((negative == math.inf) | (positive == math.inf))):
        at_infinity = _ops.where(z == math.inf, 0.0, -math.inf, z)
        lowered = xp.where(shift == math.inf, at_infinity, lowered)
    if low is not None and not rows.is_first_order(low):
        low, of_tops = _less_that_of_the_largest(labels, z, low, tops)
        taken, rest = taken + xp.round(of_tops), of_tops - xp.round(of_tops)
        factor = 1.0 + xp.expm1(rest)  # XLA makes a product of two exponentials that of the sum
        lowered, low = _ops.exact_difference(lowered, -low, is_finite=is_finite)
    if error is not None:
        low = error if low is None else low + error
    empty = (tops[0] == -math.inf) | (tops[1] == -math.inf)
    return _Lowered(lowered, low, _ops.where(empty, 0.0, taken, taken), factor)


def _less_that_of_the_largest(labels: Labels, z: Array, low: Array, tops: Split) -> tuple[Array, Array]:
    """What rounding took off the exponents, less what it took off the largest of their side; and these, summed.

    Of exponents of 10^9 rounding takes more than 1. Others are further below the largest than that, or equal to it.
    """
    at_top = labels.counting(_ops.where(z == labels.spread(*tops), low, -math.inf, z), None)
    of_tops = [_ops.where(top == -math.inf, 0.0, top, top) for top in labels.tops(at_top)]
    return low - labels.spread(*of_tops), of_tops[0] + of_tops[1]
