"""Losses of pairs straight from their formulas, at high precision, one row at a time, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mpmath import mp

from zlpr.reference.losses import Exact

_DIGITS = 80
_FAR = 10**7  # what stands in for an infinite score, further away than any finite one


class _Exponent(NamedTuple):
    """The exponent of a class on one side, and its derivatives with respect to the score."""

    value: Any
    slope: Any
    curvature: Any


def lsep_loss(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """log(1 + Σ (1 - t_i) t_j e^(s_i - s_j)): Li, Song and Luo, eq. 5.

    Parameters
    ----------
    scores, targets : sequences of C floats
    label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import lsep_loss
    >>> nstr(lsep_loss([0.0, 0.0, 0.0], [1, 0, 0]).value, 10)  # log(3)
    '1.098612289'
    """
    one = mp.mpf(1)
    return _of_pairs(
        scores,
        targets,
        lambda s: _Exponent(s, one, mp.mpf(0)),
        lambda s: _Exponent(-s, -one, mp.mpf(0)),
        label_smoothing,
        mask,
    )


def circle_loss(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    margin: float = 0.25,
    scale: float = 256.0,
    weighting: str = "circle",
    detach_weights: bool = True,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """log(1 + Σ e^(γ α_i (s_i - m)) e^(-γ α_j (s_j - 1 + m))), or unified: Sun et al., eq. 4 to 6, and 1.

    Parameters
    ----------
    scores, targets : sequences of C floats
        Circle weighting takes finite scores.
    margin, scale : float
    weighting : {"circle", "unified"}
    detach_weights : bool
        Whether the weights α are constants to the derivatives.
    label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import circle_loss
    >>> nstr(circle_loss([0.75, 0.25], [1, 0]).value, 10)  # log(2)
    '0.6931471806'
    """
    m, g, zero = mp.mpf(margin), mp.mpf(scale), mp.mpf(0)

    def negative(s: Any) -> _Exponent:
        if weighting == "unified":
            return _Exponent(g * (s + m), g, zero)
        if s + m <= 0:
            return _Exponent(zero, zero, zero)
        value = g * (s + m) * (s - m)
        return _Exponent(value, g * (s + m), zero) if detach_weights else _Exponent(value, 2 * g * s, 2 * g)

    def positive(s: Any) -> _Exponent:
        if weighting == "unified":
            return _Exponent(-g * s, -g, zero)
        if 1 + m - s <= 0:
            return _Exponent(zero, zero, zero)
        value = -g * (1 + m - s) * (s - 1 + m)
        if detach_weights:
            return _Exponent(value, -g * (1 + m - s), zero)
        return _Exponent(value, -2 * g * (1 - s), 2 * g)

    return _of_pairs(scores, targets, negative, positive, label_smoothing, mask)


def _of_pairs(
    scores: Sequence[float],
    targets: Sequence[float],
    negative: Callable[[Any], _Exponent],
    positive: Callable[[Any], _Exponent],
    label_smoothing: float,
    mask: Sequence[bool] | None,
) -> Exact:
    """log(1 + Σ w_i w_j e^(u_i + v_j)) over negatives i and positives j, with its derivatives."""
    n = len(scores)
    with mp.workdps(_DIGITS):
        zeros = [mp.mpf(0)] * n
        counts = [True] * n if mask is None else list(mask)
        if any(mp.isnan(mp.mpf(s)) and c for s, c in zip(scores, counts, strict=True)):
            return Exact(mp.nan, [mp.nan] * n, [mp.nan] * n)
        t = [(1 - mp.mpf(label_smoothing)) * mp.mpf(y) + mp.mpf(label_smoothing) / 2 for y in targets]
        near = [mp.sign(mp.mpf(s)) * _FAR if mp.isinf(s) else mp.mpf(s) for s in scores]
        weights = [1 - w for w in t], t
        sides = [
            {
                i: exponent(near[i])
                for i in range(n)
                if counts[i] and side_weights[i] > 0 and scores[i] != absent
            }
            for exponent, side_weights, absent in (
                (negative, weights[0], -mp.inf),
                (positive, weights[1], mp.inf),
            )
        ]
        pairs = {
            (i, j): weights[0][i] * weights[1][j] * mp.exp(a.value + b.value)
            for i, a in sides[0].items()
            for j, b in sides[1].items()
        }
        if not pairs:
            return Exact(mp.mpf(0), zeros, list(zeros))
        total = 1 + mp.fsum(pairs.values())
        infinite = any(mp.isinf(scores[i]) or mp.isinf(scores[j]) for i, j in pairs)
        value = mp.inf if infinite else mp.log1p(mp.fsum(pairs.values()))
        gradient, hessian = [], []
        for k in range(n):
            slope, second = mp.mpf(0), mp.mpf(0)
            for side, place in zip(sides, (0, 1), strict=True):
                if k in side:
                    share = mp.fsum(x for ij, x in pairs.items() if ij[place] == k) / total
                    rest = (1 + mp.fsum(x for ij, x in pairs.items() if ij[place] != k)) / total
                    slope += side[k].slope * share
                    second += side[k].slope ** 2 * share * rest + side[k].curvature * share
            both = pairs.get((k, k))
            gradient.append(slope)
            hessian.append(second if both is None else second + _on_both_sides(sides, pairs, total, k))
        return Exact(value, gradient, hessian)


def _on_both_sides(sides: Any, pairs: Any, total: Any, k: int) -> Any:
    """What a class on both sides adds to its second derivative: twice the covariance of its two exponents."""
    as_negative = mp.fsum(x for (i, _), x in pairs.items() if i == k) / total
    as_positive = mp.fsum(x for (_, j), x in pairs.items() if j == k) / total
    covariance = pairs[k, k] / total - as_negative * as_positive
    return 2 * sides[0][k].slope * sides[1][k].slope * covariance
