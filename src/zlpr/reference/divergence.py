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
