"""Focal losses: sigmoid cross-entropy in which a class counts the less, the better it is answered already.

Focal loss has one focusing exponent, asymmetric loss one for either kind of class and a probability below which a
negative is let go. The algebra is in ``docs/derivations/focal.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Labels, Weighted

__all__ = ["asymmetric_loss", "focal_loss"]


@row_loss(wrt=("scores",), targets="multi-label", separable=True, workspace=2.0)
def focal_loss(
    rows: Rows,
    shares: Array | None,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    r"""Focal loss: sigmoid cross-entropy, each class weighted by a power of the probability it gets wrong, in nats.

    .. math::

        L = \sum_i \alpha\, t_i\, (1 - p_i)^\gamma (-\log p_i)
            + (1 - \alpha) (1 - t_i)\, p_i^\gamma (-\log(1 - p_i)), \qquad p_i = \sigma(s_i)

    with scores :math:`s` and targets :math:`t`. A row's loss is the *sum* over its classes, as for every row loss.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1]; they mix the two terms of a class.
    gamma : float, default 2.0
        The focusing exponent, not negative. 0 is sigmoid cross-entropy.
    alpha : float, optional
        Weight of the positive side in [0, 1], beside ``1 - alpha`` of the negative one. None weights both with 1.
    label_smoothing : float, default 0.0
        Replaces each target by ``(1 - label_smoothing) * t + label_smoothing / 2``.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over rows divides by the sum of the sample weights.
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
        If shapes or devices differ, if `gamma` or `alpha` is out of range, or (on the host) a target is outside
        [0, 1]; elsewhere such a row is nan.

    Notes
    -----
    Large margins keep their digits: a confident right answer has the loss ``exp(-(gamma + 1) |s|)``, not 0. The power
    multiplies the rounding error of the probability: value and gradient of hard labels are within 4 ulp of the row's
    largest entry up to a gamma of 2 (6 where NumPy's float32 ``exp`` takes 2.5 of them), and within about
    ``2 + gamma`` beyond. For soft targets torchvision and optax take the power of ``1 - p t - (1 - p)(1 - t)`` instead
    of mixing the two terms; for hard ones all agree. The loss is not convex. Infinite scores give the limits.

    References
    ----------
    .. [1] T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár, "Focal Loss for Dense Object Detection",
       arXiv:1708.02002, 2017, eq. 4 and 5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import focal_loss
    >>> value, gradient = focal_loss.value_and_grad(np.asarray([[0.0, 0.0]]), np.asarray([[1, 0]]))
    >>> print(round(float(value), 6), gradient.round(6))  # twice log(2) / 4
    0.346574 [[-0.298287  0.298287]]
    """
    labels, z = _exponents(rows)
    terms = _balanced(labels, _Focal.of(_logistic(z), _checked_gamma("gamma", gamma)), alpha)
    values = _ops.row_sum(labels.folded(labels.weighed(terms.value(z), None), 1))
    if shares is None:
        return values, {}
    slopes = _ops.multiply_(labels.weighed(terms.slope(), None), shares[:, None])
    return values, {"scores": labels.folded(slopes, -1)}


@focal_loss.diagonal
def _focal_diagonal(rows: Rows, *, gamma: float, alpha: float | None) -> Array:
    labels, z = _exponents(rows)
    terms = _balanced(labels, _Focal.of(_logistic(z), _checked_gamma("gamma", gamma)), alpha)
    return labels.folded(labels.weighed(terms.curvature(), None), 1)


@row_loss(wrt=("scores",), targets="multi-label", separable=True, workspace=3.0)
def asymmetric_loss(
    rows: Rows,
    shares: Array | None,
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
    label_smoothing: float = 0.0,
) -> tuple[Array, dict[str, Array]]:
    r"""Asymmetric loss: focal loss with an exponent for either kind of class, and easy negatives let go, in nats.

    .. math::

        L = \sum_i t_i\, (1 - p_i)^{\gamma_+} (-\log p_i) + (1 - t_i)\, m_i^{\gamma_-} (-\log(1 - m_i)), \qquad
        p_i = \sigma(s_i), \quad m_i = \max(p_i - c, 0)

    with scores :math:`s`, targets :math:`t` and the clip :math:`c`. A row's loss is the *sum* over its classes.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1]; they mix the two terms of a class.
    gamma_positive, gamma_negative : float, default 1.0 and 4.0
        The focusing exponents of positive and of negative classes, not negative.
    clip : float, default 0.05
        What is taken off the probability of a negative class, in [0, 1): below it, the class costs nothing.
    label_smoothing : float, default 0.0
        Replaces each target by ``(1 - label_smoothing) * t + label_smoothing / 2``.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over rows divides by the sum of the sample weights.
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
        If shapes or devices differ, if an exponent or the clip is out of range, or (on the host) a target is outside
        [0, 1]; elsewhere such a row is nan.

    Notes
    -----
    The gradient is that of the value. The authors' code can hold the powers constant in it, and keeps the logarithms
    from 0 by 1e-8, at which its loss stops growing; here a positive at -40 costs 40. A negative at ``inf`` costs
    ``-(1 - clip)**gamma_negative * log(clip)``, with the gradient 0: so far off, it is taken for a wrong label.
    Near the clip ``p - clip`` keeps its digits. A power multiplies the rounding error of what is raised to it: value
    and gradient are within about ``4 + gamma`` ulp of the row's largest entry. Among millions of single classes in
    float32 some are off by more, by 18 on NumPy, 13 on JAX and 11 on PyTorch. The loss is not convex.

    References
    ----------
    .. [1] T. Ridnik, E. Ben-Baruch, N. Zamir, A. Noy, I. Friedman, M. Protter, L. Zelnik-Manor, "Asymmetric Loss for
       Multi-Label Classification", arXiv:2009.14119, 2021, eq. 7.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import asymmetric_loss
    >>> scores, targets = np.asarray([[0.0, 0.0, -3.0]]), np.asarray([[1, 0, 0]])  # sigmoid(-3) < 0.05
    >>> value, gradient = asymmetric_loss.value_and_grad(scores, targets)
    >>> print(round(float(value), 6), gradient.round(6))  # log(2) / 2 - 0.45**4 * log(0.55)
    0.371089 [[-0.423287  0.073117  0.      ]]
    """
    labels, z = _exponents(rows)
    sides = _Sides.of(labels, z, gamma_positive, gamma_negative, clip)
    costs = labels.weighed(sides.joined(lambda side, z: side.value(z)), None)
    values = _ops.row_sum(labels.folded(costs, 1))
    if shares is None:
        return values, {}
    slopes = labels.weighed(sides.joined(lambda side, z: side.slope()), None)
    return values, {"scores": labels.folded(_ops.multiply_(slopes, shares[:, None]), -1)}


@asymmetric_loss.diagonal
def _asymmetric_diagonal(rows: Rows, *, gamma_positive: float, gamma_negative: float, clip: float) -> Array:
    labels, z = _exponents(rows)
    sides = _Sides.of(labels, z, gamma_positive, gamma_negative, clip)
    return labels.folded(labels.weighed(sides.joined(lambda side, z: side.curvature()), None), 1)


class _Term(Protocol):
    """What a class of one side costs, as a function of its exponent z."""

    def value(self, z: Array) -> Array: ...
    def slope(self) -> Array: ...
    def curvature(self) -> Array: ...


class _Logistic(NamedTuple):
    """The pieces of ``σ(z) = upper / total`` and ``σ(-z) = lower / total``, none of them rounded away at any z.

    The larger of upper and lower is 1. Where z is beyond the range of the exponential, so that its tail is 0, the
    clipped z serves in everything but the value.
    """

    clipped: Array
    upper: Array
    lower: Array
    total: Array
    log_total: Array
    softplus: Array
    """``log(1 + e^z)`` of the clipped z"""
    surprise: Array
    """``-log σ(z)``"""
    low: Array
    """what rounding took off the surprise"""


def _logistic(z: Array) -> _Logistic:
    xp = _array.namespace(z)
    reach = 1.2 * _ops.log_max(z)
    clipped = _ops.clip(z, -reach, reach)
    below = _array.as_dtype(
        clipped < 0, z.dtype
    )  # products choose, which is quicker, and right at 0 to autograd
    above = 1.0 - below
    negative_part = clipped * below
    positive_part = clipped - negative_part
    tail = _ops.exp_(negative_part - positive_part)
    log_total = xp.log1p(tail)
    surprise = log_total - negative_part
    return _Logistic(
        clipped,
        _ops.add_(tail * below, above),
        _ops.add_(tail * above, below),
        1.0 + tail,
        log_total,
        positive_part + log_total,
        surprise,
        log_total - (surprise + negative_part),
    )


class _Focal(NamedTuple):
    """``f(z) = σ(z)^γ log(1 + e^z)``."""

    parts: _Logistic
    gamma: float
    power: Array
    """``σ(z)^γ``, times a class's own factor"""

    @classmethod
    def of(cls, parts: _Logistic, gamma: float) -> _Focal:
        return cls(parts, gamma, _power_of_sigmoid(parts, gamma))

    def value(self, z: Array) -> Array:
        return self.power * (_ops.relu(z) + self.parts.log_total)

    def slope(self) -> Array:
        """``σ(z)^γ (σ(z) + γ σ(-z) log(1 + e^z))``."""
        p = self.parts
        bracket = _ops.add_(self.gamma * p.lower * p.softplus, p.upper)
        return _ops.multiply_(bracket, self.power / p.total)

    def curvature(self) -> Array:
        """``σ(z)^γ σ(-z) (γ (γ σ(-z) - σ(z)) log(1 + e^z) + (2γ + 1) σ(z))``."""
        p, gamma = self.parts, self.gamma
        bracket = gamma * (gamma * p.lower - p.upper) * p.softplus + (2 * gamma + 1) * p.upper
        return self.power * p.lower * bracket / (p.total * p.total)


class _Clipped(NamedTuple):
    """``g(z) = m^γ (-log(1 - m))`` with ``m = max(σ(z) - c, 0)``.

    ``m = σ(z) (1 - c) rise`` and ``1 - m = rest / total``; below the clip the power is put to 0 and rise stands in.
    """

    parts: _Logistic
    gamma: float
    power: Array
    lead: Array
    """``(1 - c) rise``"""
    rest: Array
    cost: Array
    """``-log(1 - m)``"""

    @classmethod
    def of(cls, parts: _Logistic, gamma: float, clip: float) -> _Clipped:
        costs, rise, low = _rise(parts.clipped, clip)
        lead, rest = (1.0 - clip) * (rise + low), parts.lower + clip * parts.total
        power = _power_of_sigmoid(parts, gamma) * _power(rise, gamma) * math.exp(gamma * math.log1p(-clip))
        power = _ops.multiply_(_ops.add_(power, power * (gamma * low / rise)), costs)
        cost = _array.namespace(rise).log1p(parts.upper * lead / rest)
        return cls(parts, gamma, power, lead, rest, cost)

    def value(self, z: Array) -> Array:
        return self.power * self.cost

    def slope(self) -> Array:
        """``m^γ (γ (-log(1 - m)) ρ + η) / total``."""
        from_power, from_cost = self._rates()
        return self.power * (self.gamma * from_power * self.cost + from_cost) / self.parts.total

    def curvature(self) -> Array:
        """The same once more, with ``σ(-z) - σ(z)`` for the growth of ``dm/dz``."""
        p, gamma, (from_power, from_cost) = self.parts, self.gamma, self._rates()
        first = gamma * from_power * self.cost + from_cost
        second = (
            gamma * ((gamma - 1) * self.cost * from_power + 2 * from_cost) * from_power
            + from_cost * from_cost
        )
        return self.power * (second + first * (p.lower - p.upper)) / (p.total * p.total)

    def _rates(self) -> tuple[Array, Array]:
        """ρ and η: the logarithmic derivatives of m and of ``1 / (1 - m)``, times total; ``dm/dz = σ(z) σ(-z)``."""
        p = self.parts
        return p.lower / self.lead, p.upper * p.lower / self.rest


class _Sides(NamedTuple):
    """Both kinds of terms and their exponents, at every exponent for hard labels, at their own for soft ones."""

    labels: Labels
    negative: _Term
    positive: _Term
    exponents: tuple[Array, Array]

    @classmethod
    def of(
        cls, labels: Labels, z: Array, gamma_positive: float, gamma_negative: float, clip: float
    ) -> _Sides:
        gamma_positive = _checked_gamma("gamma_positive", gamma_positive)
        gamma_negative = _checked_gamma("gamma_negative", gamma_negative)
        if not _constants.is_number(clip) or not 0 <= clip < 1:
            raise ValueError(f"clip must be a number in [0, 1), got {clip!r}")
        if isinstance(labels, Weighted):
            exponents = labels.sides(z)
            of_negatives, of_positives = map(_logistic, exponents)
        else:
            exponents, of_negatives = (z, z), _logistic(z)
            of_positives = of_negatives
        negative = (
            _Clipped.of(of_negatives, gamma_negative, float(clip))
            if clip
            else _Focal.of(of_negatives, gamma_negative)
        )
        return cls(labels, negative, _Focal.of(of_positives, gamma_positive), exponents)

    def joined(self, quantity: Callable[[_Term, Array], Array]) -> Array:
        """A quantity of either side's terms, in the form of the exponents."""
        negatives, positives = (
            quantity(side, z) for side, z in zip((self.negative, self.positive), self.exponents, strict=True)
        )
        if isinstance(self.labels, Weighted):
            return _ops.stacked(negatives, positives)
        return _ops.where(self.labels.positives, positives, negatives, negatives)


def _exponents(rows: Rows) -> tuple[Labels, Array]:
    """``s`` of each negative and ``-s`` of each positive class, ``-inf`` where it does not count."""
    labels = rows.labels.dense()
    return labels, labels.counting(labels.exponents(rows.scores, None), rows.mask)


def _power_of_sigmoid(parts: _Logistic, gamma: float) -> Array:
    """``σ(z)^γ`` as ``exp(-γ surprise)``, whose exponent is too large to be rounded."""
    exponent, lacking = _ops.exact_product(parts.surprise, -gamma)
    low = parts.low * -gamma if lacking is None else lacking - gamma * parts.low
    power = _array.namespace(exponent).exp(exponent)
    return _ops.add_(power, power * low)


def _power(x: Array, exponent: float) -> Array:
    """A power, by products where it is whole and small."""
    if exponent == 0:
        return _array.namespace(x).ones_like(x)
    if exponent > 8 or exponent != int(exponent):
        return x**exponent
    if exponent % 2:
        return x if exponent == 1 else x * _power(x, exponent - 1)
    root = _power(x, exponent / 2)
    return root * root


def _rise(z: Array, clip: float) -> tuple[Array, Array, Array]:
    """1 where σ(z) is above the clip, else 0; ``1 - e^(z_c - z)`` there, ``σ(z_c)`` the clip; and what it lacks."""
    xp = _array.namespace(z)
    start, start_low = _constants.rounded(_constants.logit(clip), z)
    start_at = xp.full((), start, dtype=z.dtype, device=_array.device(z))
    above, low = _ops.exact_difference(z, start_at, is_finite=True)  # z is clipped
    above, low = _ops.exact_difference(above, start_low - low, is_finite=True)
    costs = _array.as_dtype(above > float(xp.finfo(z.dtype).smallest_normal), z.dtype)
    above = _ops.add_(_ops.multiply_(above, costs), 1.0 - costs)
    rise = -_ops.expm1(-above)
    return costs, rise, (1.0 - rise) * low


def _balanced(labels: Labels, terms: _Focal, alpha: float | None) -> _Focal:
    """Terms times ``1 - alpha`` at exponents of the negative side and ``alpha`` at those of the positive one."""
    if alpha is None:
        return terms
    if not _constants.is_number(alpha) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be None or a number in [0, 1], got {alpha!r}")
    factors = labels.constants(1.0 - float(alpha), float(alpha), terms.power)
    return terms._replace(power=_ops.multiply_(terms.power, factors))


def _checked_gamma(name: str, gamma: Any) -> float:
    if not _constants.is_number(gamma) or not 0 <= gamma < math.inf:
        raise ValueError(f"{name} must be a finite number that is not negative, got {gamma!r}")
    return float(gamma)
