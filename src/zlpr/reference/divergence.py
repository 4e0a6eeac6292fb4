"""The divergence of two score vectors straight from the definition, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

from zlpr.reference.losses import ExactOfSeveral

_DIGITS = 80


def zlpr_divergence(
    scores_p: Sequence[float],
    scores_q: Sequence[float],
    *,
    symmetric: bool = True,
    mask: Sequence[bool] | None = None,
) -> ExactOfSeveral:
    """Σ KL(p || q), and Σ KL(q || p) added for the symmetric one, between Bernoulli distributions: post 9039.

    Parameters
    ----------
    scores_p, scores_q : sequences of C floats
        Log-odds. One that is infinite is so before the other one moves.
    symmetric : bool
    mask : sequence of C bools, optional

    Returns
    -------
    ExactOfSeveral
        Value in nats, gradients with respect to ``scores_p`` and ``scores_q``, and the Hessian diagonal of the former.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import zlpr_divergence
    >>> nstr(zlpr_divergence([0.0], [2.0]).value, 12)
    '0.761594155956'
    """
    with mp.workdps(_DIGITS):
        counts = [True] * len(scores_p) if mask is None else mask
        classes = [
            _one_class(mp.mpf(p), mp.mpf(q), symmetric) if c else (mp.mpf(0),) * 4
            for p, q, c in zip(scores_p, scores_q, counts, strict=True)
        ]
        values, of_p, of_q, hessian = ([terms[i] for terms in classes] for i in range(4))
        return ExactOfSeveral(mp.fsum(values), {"scores_p": of_p, "scores_q": of_q}, hessian)


def _one_class(p: Any, q: Any, symmetric: bool) -> tuple[Any, Any, Any, Any]:
    """Value, derivatives with respect to p and to q, and the second one with respect to p."""
    if mp.isnan(p) or mp.isnan(q):
        return (mp.nan,) * 4
    with mp.workdps(_DIGITS + _digits([p, q])):
        difference = _probability(p) - _probability(q)
        value, of_p, of_q = _relative_entropy(p, q), _times_gap(_slope(p), p, q), -difference
        if symmetric:
            value += _relative_entropy(q, p)
            of_p += difference
            of_q += _times_gap(_slope(q), q, p)
        return value, of_p, of_q, _times_gap(_bend(p), p, q) + (2 if symmetric else 1) * _slope(p)


def _probability(score: Any) -> Any:
    return 1 / (1 + mp.exp(-score))


def _slope(score: Any) -> Any:
    """The first derivative of the probability."""
    return mp.mpf(0) if mp.isinf(score) else _probability(score) * _probability(-score)


def _bend(score: Any) -> Any:
    """The second derivative of the probability."""
    return _slope(score) * (_probability(-score) - _probability(score))


def _times_gap(factor: Any, score: Any, other: Any) -> Any:
    """A factor times ``score - other``; one that is 0 wins over an infinite difference."""
    return factor * (score - other) if factor else mp.mpf(0)


def _relative_entropy(p: Any, q: Any) -> Any:
    """Σ π log(π / ρ) over both outcomes, π and ρ their probabilities."""
    outcomes = ((_probability(p), _probability(q)), (_probability(-p), _probability(-q)))
    return mp.fsum(a * (mp.log(a / b) if b else mp.inf) for a, b in outcomes if a)


def _digits(scores: Sequence[Any]) -> int:
    """So many are needed beside 1, for the least probability and for the difference of the scores."""
    sizes = [abs(s) for s in scores if mp.isfinite(s)]
    return 2 * int(max(sizes, default=0) / mp.ln(10)) + 40


def softmax_divergence(
    scores_p: Sequence[float], scores_q: Sequence[float], *, mask: Sequence[bool] | None = None
) -> ExactOfSeveral:
    """Σ P log(P / Q) of two softmax distributions.

    Parameters
    ----------
    scores_p, scores_q : sequences of C floats
        Several that are infinite share the distribution.
    mask : sequence of C bools, optional

    Returns
    -------
    ExactOfSeveral
        Value in nats, gradients with respect to ``scores_p`` and ``scores_q``, and the Hessian diagonal of the former.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import softmax_divergence
    >>> nstr(softmax_divergence([0.0, 0.0], [0.0, 2.0]).value, 12)
    '0.433780830483'
    """
    counts = [True] * len(scores_p) if mask is None else mask
    zeros = [mp.mpf(0)] * len(scores_p)
    if not any(counts):
        return ExactOfSeveral(mp.mpf(0), {"scores_p": zeros, "scores_q": list(zeros)}, list(zeros))
    with mp.workdps(_DIGITS + 2 * _digits([min(abs(mp.mpf(s)), 1500) for s in (*scores_p, *scores_q)])):
        p, q = _softmax(scores_p, counts), _softmax(scores_q, counts)
        logs = [(mp.log(a / b) if b else mp.inf) if a else mp.mpf(0) for a, b in zip(p, q, strict=True)]
        value = mp.fsum(a * log for a, log in zip(p, logs, strict=True) if a)
        of_p = [a * (log - value) if a else mp.mpf(0) for a, log in zip(p, logs, strict=True)]
        hessian = [
            a * (1 - a) * (1 + log - value) - a**2 * (log - value) if a else mp.mpf(0)
            for a, log in zip(p, logs, strict=True)
        ]
        return ExactOfSeveral(
            value, {"scores_p": of_p, "scores_q": [b - a for a, b in zip(p, q, strict=True)]}, hessian
        )


def _softmax(scores: Sequence[float], counts: Sequence[bool]) -> list[Any]:
    exact = [mp.mpf(s) if c else -mp.inf for s, c in zip(scores, counts, strict=True)]
    top = max(exact)
    shares = [mp.mpf(s == top) if mp.isinf(top) else mp.exp(s - top) for s in exact]
    return [share / mp.fsum(shares) for share in shares]


def gaussian_divergence(outputs_p: Sequence[float], outputs_q: Sequence[float]) -> ExactOfSeveral:
    """Σ (e^(ℓ - m) - 1 - (ℓ - m) + (μ - ν)² e^-m) / 2 of means μ, ν and log-variances ℓ, m.

    Parameters
    ----------
    outputs_p, outputs_q : sequences of 2 D floats
        Means, and after them log-variances.

    Returns
    -------
    ExactOfSeveral
        Value in nats, gradients with respect to ``outputs_p`` and ``outputs_q``, and the former's Hessian diagonal.

    Examples
    --------
    >>> from zlpr.reference import gaussian_divergence
    >>> print(gaussian_divergence([0.0, 0.0], [3.0, 0.0]).value)
    4.5
    """
    half = len(outputs_p) // 2
    with mp.workdps(2 * _DIGITS):
        p, q = [mp.mpf(x) for x in outputs_p], [mp.mpf(x) for x in outputs_q]
        gaps = [a - b for a, b in zip(p[:half], q[:half], strict=True)]
        precisions = [mp.exp(-m) for m in q[half:]]
        quotients = [mp.exp(a - b) for a, b in zip(p[half:], q[half:], strict=True)]
        squares = [g**2 * w for g, w in zip(gaps, precisions, strict=True)]
        value = mp.fsum((r - 1 - mp.log(r) + s) / 2 for r, s in zip(quotients, squares, strict=True))
        slopes = [g * w for g, w in zip(gaps, precisions, strict=True)]
        of_p = [*slopes, *((r - 1) / 2 for r in quotients)]
        of_q = [*(-s for s in slopes), *((1 - r - s) / 2 for r, s in zip(quotients, squares, strict=True))]
        hessian = [*precisions, *(r / 2 for r in quotients)]
        return ExactOfSeveral(value, {"outputs_p": of_p, "outputs_q": of_q}, hessian)
