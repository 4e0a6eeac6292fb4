"""Losses straight from their formulas, at high precision, one row at a time.

Each twin returns value, gradient with respect to the scores, and the diagonal of the Hessian, from textbook sums:
no shift, no rearrangement, only enough digits. Infinite scores are taken as limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mpmath import mp

_DIGITS = 80


class Exact(NamedTuple):
    """One row's loss in mpmath numbers."""

    value: Any
    gradient: list[Any]
    hessian: list[Any]
    threshold_gradient: Any = None
    targets_gradient: Any = None


class ExactOfSeveral(NamedTuple):
    """One row's loss of several arrays in mpmath numbers: a gradient for each, the Hessian diagonal of the first."""

    value: Any
    gradients: dict[str, list[Any]]
    hessian: list[Any]


def zlpr_loss(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    threshold: float = 0.0,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    class_weight: Sequence[float] | None = None,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """τ log(1 + Σ w (1 - t) e^((s - s0) / τ)) + τ log(1 + Σ w t e^((s0 - s) / τ)): posts 7359 and 9064.

    Parameters
    ----------
    scores, targets : sequences of C floats
    threshold, label_smoothing, temperature : float
    class_weight : sequence of C floats, optional
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient, Hessian diagonal and the gradients with respect to the threshold and the targets.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import zlpr_loss
    >>> nstr(zlpr_loss([1.5, -0.5, 0.25, -2.0, 3.0], [1, 0, 1, 0, 0]).value, 12)
    '3.77727837903'
    """
    tau = mp.mpf(temperature)
    with mp.workdps(_DIGITS + _digits_spanned([(mp.mpf(s) - mp.mpf(threshold)) / tau for s in scores])):
        weights = _counted_weights(class_weight, mask, len(scores))
        t = [_smoothed(y, label_smoothing) for y in targets]
        up = [(mp.mpf(s) - mp.mpf(threshold)) / tau for s in scores]
        down = [-z for z in up]
        negative = [w * (1 - y) for w, y in zip(weights, t, strict=True)]
        positive = [w * y for w, y in zip(weights, t, strict=True)]
        p, p_none, log_p = _shares(up, negative)
        q, q_none, log_q = _shares(down, positive)
        more, less = _unweighted_shares(down, positive), _unweighted_shares(up, negative)
        rate = tau * (1 - mp.mpf(label_smoothing))
        return Exact(
            tau * (log_p + log_q),
            [a - b for a, b in zip(p, q, strict=True)],
            [(a * (1 - a) + b * (1 - b)) / tau for a, b in zip(p, q, strict=True)],
            p_none - q_none,
            [rate * w * (b - a) if w else mp.mpf(0) for w, a, b in zip(weights, less, more, strict=True)],
        )


def sparse_zlpr_loss(
    scores: Sequence[float], positives: Iterable[int], *, padding: int = -1, **options: Any
) -> Exact:
    """`zlpr_loss` with the set of the positive classes in place of a target a class: post 8888.

    Parameters
    ----------
    scores : sequence of C floats
    positives : iterable of int
        Class indices, repeated or not, and the padding.
    padding : int
    **options
        As for `zlpr_loss`.

    Returns
    -------
    Exact

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import sparse_zlpr_loss
    >>> nstr(sparse_zlpr_loss([3.0, -1.0, 2.0, -2.0, 0.5], [0, 2, 2]).value, 12)
    '1.31786288523'
    """
    members = set(positives) - {padding}
    return zlpr_loss(scores, [float(i in members) for i in range(len(scores))], **options)


def zlpr_minimum(
    targets: Sequence[float],
    *,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    class_weight: Sequence[float] | None = None,
    mask: Sequence[bool] | None = None,
) -> Any:
    """2 τ log(1 + Σ w √(t (1 - t))), the least value of `zlpr_loss` over all scores.

    Parameters
    ----------
    targets : sequence of C floats
    label_smoothing, temperature : float
    class_weight : sequence of C floats, optional
    mask : sequence of C bools, optional

    Returns
    -------
    mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import zlpr_minimum
    >>> nstr(zlpr_minimum([0.5, 0.5]), 10)
    '1.386294361'
    """
    with mp.workdps(_DIGITS):
        weights = _counted_weights(class_weight, mask, len(targets))
        t = [_smoothed(y, label_smoothing) for y in targets]
        spread = mp.fsum(w * mp.sqrt(y * (1 - y)) for w, y in zip(weights, t, strict=True))
        return 2 * mp.mpf(temperature) * mp.log1p(spread)


def _counted_weights(
    class_weight: Sequence[float] | None, mask: Sequence[bool] | None, classes: int
) -> list[Any]:
    """The weight of each class, 0 where it does not count."""
    return [
        mp.mpf(0)
        if mask is not None and not mask[i]
        else mp.mpf(1 if class_weight is None else class_weight[i])
        for i in range(classes)
    ]


def _smoothed(target: float, smoothing: float) -> Any:
    return (1 - mp.mpf(smoothing)) * mp.mpf(target) + mp.mpf(smoothing) / 2


def _unweighted_shares(exponents: list[Any], weights: list[Any]) -> list[Any]:
    """e^z over 1 + Σ w e^z, of each class; infinite exponents grow together."""
    present = [z for z, w in zip(exponents, weights, strict=True) if w > 0]
    if any(mp.isnan(z) for z in [*present, *exponents]):
        return [mp.nan] * len(exponents)
    if mp.inf in present:
        held = mp.fsum(w for z, w in zip(exponents, weights, strict=True) if z == mp.inf)
        return [1 / held if z == mp.inf else mp.mpf(0) for z in exponents]
    total = 1 + mp.fsum(w * mp.exp(z) for z, w in zip(exponents, weights, strict=True) if w > 0)
    return [mp.exp(z) / total for z in exponents]


def _shares(exponents: list[Any], weights: list[Any]) -> tuple[list[Any], Any, Any]:
    """Share of each term, and of the 1, in 1 + Σ w e^z, and the sum's logarithm."""
    present = [z if w > 0 else -mp.inf for z, w in zip(exponents, weights, strict=True)]
    if any(mp.isnan(z) for z in present):
        nothing = [mp.nan if w > 0 else mp.mpf(0) for w in weights]
        return nothing, mp.nan, mp.nan
    infinite = [z == mp.inf for z in present]
    if any(infinite):
        held = mp.fsum(w for w, i in zip(weights, infinite, strict=True) if i)
        return (
            [w / held if i else mp.mpf(0) for w, i in zip(weights, infinite, strict=True)],
            mp.mpf(0),
            mp.inf,
        )
    terms = [w * mp.exp(z) if w > 0 else mp.mpf(0) for z, w in zip(present, weights, strict=True)]
    total = 1 + mp.fsum(terms)
    return [term / total for term in terms], 1 / total, mp.log(total)


def _digits_spanned(exponents: list[Any]) -> int:
    """Decimal digits between the smallest and the largest exponential: so many more are needed to add them."""
    return int(2 * max((abs(z) for z in exponents if mp.isfinite(z)), default=0) / mp.ln(10)) + 1


def sigmoid_cross_entropy(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    positive_weight: float = 1.0,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """Σ w t log(1 + e^-s) + (1 - t) log(1 + e^s).

    Parameters
    ----------
    scores, targets : sequences of C floats
    positive_weight, label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import sigmoid_cross_entropy
    >>> nstr(sigmoid_cross_entropy([0.0], [1]).value, 10)
    '0.6931471806'
    """
    with mp.workdps(_DIGITS + _digits_spanned([*map(mp.mpf, scores)])):
        value, gradient, hessian = mp.mpf(0), [], []
        for i, (s, y) in enumerate(zip(scores, targets, strict=True)):
            t = (1 - mp.mpf(label_smoothing)) * mp.mpf(y) + mp.mpf(label_smoothing) / 2
            counts = mask is None or mask[i]
            w_pos, w_neg = (mp.mpf(positive_weight) * t, 1 - t) if counts else (mp.mpf(0), mp.mpf(0))
            (p,), _, log_p = _shares([mp.mpf(s)], [mp.mpf(w_neg > 0)])
            (q,), _, log_q = _shares([-mp.mpf(s)], [mp.mpf(w_pos > 0)])
            value += (w_neg * log_p if w_neg else 0) + (w_pos * log_q if w_pos else 0)
            gradient.append(w_neg * p - w_pos * q)
            hessian.append(w_neg * p * (1 - p) + w_pos * q * (1 - q))
        return Exact(value, gradient, hessian)


def softmax_cross_entropy(
    scores: Sequence[float],
    target: int | Sequence[float],
    *,
    label_smoothing: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """Σ t (log Σ e^s - s), the target a class index or a distribution.

    Parameters
    ----------
    scores : sequence of C floats
    target : int, or sequence of C floats
    label_smoothing : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient and Hessian diagonal.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import softmax_cross_entropy
    >>> nstr(softmax_cross_entropy([50.0, 0.0], 0).value, 6)
    '1.92875e-22'
    """
    with mp.workdps(_DIGITS + _digits_spanned([*map(mp.mpf, scores)])):
        counts = [True] * len(scores) if mask is None else list(mask)
        t = (
            [mp.mpf(i == target) for i in range(len(scores))]
            if isinstance(target, int)
            else [*map(mp.mpf, target)]
        )
        t = [w if c else mp.mpf(0) for w, c in zip(t, counts, strict=True)]
        mass, even = mp.fsum(t), mp.fsum(t) / max(1, sum(map(bool, counts)))
        t = [
            (1 - mp.mpf(label_smoothing)) * w + (mp.mpf(label_smoothing) * even if c else 0)
            for w, c in zip(t, counts, strict=True)
        ]
        p, minus_log = _softmax([mp.mpf(s) if c else -mp.inf for s, c in zip(scores, counts, strict=True)])
        value = mp.fsum(w * g for w, g in zip(t, minus_log, strict=True) if w > 0)
        gradient = [mass * a - w for a, w in zip(p, t, strict=True)]
        return Exact(value, gradient, [mass * a * (1 - a) for a in p])


def _softmax(scores: list[Any]) -> tuple[list[Any], list[Any]]:
    """Probabilities and their negative logarithms; equal infinities share."""
    if any(mp.isnan(s) for s in scores):
        return [mp.nan] * len(scores), [mp.nan] * len(scores)
    top = max(scores)
    if mp.isinf(top):
        holds = [s == top for s in scores]
        n = sum(holds)
        return [mp.mpf(h) / n for h in holds], [mp.log(n) if h else mp.inf for h in holds]
    total = mp.fsum(mp.exp(s - top) for s in scores)
    return [mp.exp(s - top) / total for s in scores], [mp.log(total) + (top - s) for s in scores]
