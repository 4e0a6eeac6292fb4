"""Focal losses straight from their formulas, at high precision, one row at a time.

Value, slope and curvature of a class are those of ``p^γ (-log(1 - p))``, written in the probability, and then carried
over to the score. Infinite scores are taken as limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mpmath import mp

from zlpr.reference.losses import Exact

_DIGITS = 80


class _Term(NamedTuple):
    """What a class costs, and the first and the second derivative of that."""

    value: Any
    slope: Any
    curvature: Any


def focal_loss(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """Σ α t (1 - p)^γ (-log p) + (1 - α) (1 - t) p^γ (-log(1 - p)), p = σ(s): Lin et al., eq. 5.

    Parameters
    ----------
    scores, targets : sequences of C floats
    gamma : float
    alpha : float, optional
    label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import focal_loss
    >>> nstr(focal_loss([0.0], [1]).value, 10)  # log(2) / 4
    '0.1732867951'
    """
    on_positives, on_negatives = (1, 1) if alpha is None else (mp.mpf(alpha), 1 - mp.mpf(alpha))
    return _mixed(
        scores, targets, (gamma, 0.0, on_negatives), (gamma, 0.0, on_positives), label_smoothing, mask
    )


def asymmetric_loss(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """Σ t (1 - p)^γ₊ (-log p) + (1 - t) m^γ₋ (-log(1 - m)), m = max(σ(s) - c, 0): Ridnik et al., eq. 7.

    Parameters
    ----------
    scores, targets : sequences of C floats
    gamma_positive, gamma_negative, clip, label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import asymmetric_loss
    >>> nstr(asymmetric_loss([0.0, -3.0], [1, 0]).value, 10)  # log(2) / 2, and a class below the clip
    '0.3465735903'
    """
    return _mixed(scores, targets, (gamma_negative, clip, 1), (gamma_positive, 0.0, 1), label_smoothing, mask)


def _mixed(
    scores: Sequence[float],
    targets: Sequence[float],
    negative: tuple[float, float, Any],
    positive: tuple[float, float, Any],
    label_smoothing: float,
    mask: Sequence[bool] | None,
) -> Exact:
    """The terms of both sides, each given by its exponent, clip and weight, mixed by the targets."""
    with mp.workdps(_DIGITS):
        value, gradient, hessian = mp.mpf(0), [], []
        for i, (s, y) in enumerate(zip(scores, targets, strict=True)):
            t = (1 - mp.mpf(label_smoothing)) * mp.mpf(y) + mp.mpf(label_smoothing) / 2
            counts = mask is None or mask[i]
            slope = curvature = mp.mpf(0)
            for (gamma, clip, weight), share, sign in ((negative, 1 - t, 1), (positive, t, -1)):
                if counts and weight * share > 0:
                    term = _term(sign * mp.mpf(s), mp.mpf(gamma), mp.mpf(clip))
                    value += weight * share * term.value
                    slope += sign * weight * share * term.slope
                    curvature += weight * share * term.curvature
            gradient.append(slope)
            hessian.append(curvature)
        return Exact(value, gradient, hessian)


def _term(z: Any, gamma: Any, clip: Any) -> _Term:
    """``m^γ (-log(1 - m))`` and its derivatives, m = max(σ(z) - c, 0)."""
    zero = mp.mpf(0)
    if mp.isnan(z):
        return _Term(mp.nan, mp.nan, mp.nan)
    if mp.isinf(z):
        if z < 0:
            return _Term(zero, zero, zero)
        return (
            _Term((1 - clip) ** gamma * -mp.log(clip), zero, zero) if clip else _Term(mp.inf, mp.mpf(1), zero)
        )
    p, q = 1 / (1 + mp.exp(-z)), 1 / (1 + mp.exp(z))
    m, rest = p - clip, q + clip
    if m <= 0:
        return _Term(zero, zero, zero)
    cost, power = -mp.log1p(-m) if m < rest else -mp.log(rest), m**gamma
    first = power * (gamma * cost / m + 1 / rest)
    second = power * (gamma * (gamma - 1) * cost / m**2 + 2 * gamma / (m * rest) + 1 / rest**2)
    growth = p * q
    return _Term(power * cost, first * growth, second * growth**2 + first * growth * (q - p))
