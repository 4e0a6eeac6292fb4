"""Nearest neighbours by looking at all pairs, and the estimators of entropy and divergence written from their formulas.

Distances are exact to 60 digits, and ties are told by 40 of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

_DIGITS = 60
_TIED = 40  # digits: equal distances agree in 59, others of float64 coordinates differ sooner

Points = Sequence[Sequence[Any]]


def neighbors(
    x: Points, k: int, *, queries: Points | None = None, p: float = 2.0
) -> tuple[list[list[Any]], list[list[int]]]:
    """The k nearest points of every point or query, by distance and then by index.

    Parameters
    ----------
    x : sequence of n sequences of d numbers
    k : int
    queries : sequence of m sequences of d numbers, optional
        By default every point looks for its neighbours among the others.
    p : float
        Order of the norm, or ``inf``.

    Returns
    -------
    distances, indices : lists of lists of k

    Examples
    --------
    >>> from zlpr.reference import neighbors
    >>> neighbors([[0], [1], [3]], 1)[1]
    [[1], [0], [1]]
    """
    distances, indices = [], []
    with mp.workdps(_DIGITS):
        for i, query in enumerate(x if queries is None else queries):
            found = [
                (_distance(query, point, p), j) for j, point in enumerate(x) if queries is not None or i != j
            ]
            found.sort()
            nearest = _by_index_where_tied(found)[:k]
            distances.append([distance for distance, _ in nearest])
            indices.append([j for _, j in nearest])
    return distances, indices


def _distance(a: Sequence[Any], b: Sequence[Any], p: float) -> Any:
    gaps = [abs(mp.mpf(s) - mp.mpf(t)) for s, t in zip(a, b, strict=True)]
    if p == mp.inf:
        return max(gaps)
    return mp.fsum(gap ** mp.mpf(p) for gap in gaps) ** (1 / mp.mpf(p))


def _by_index_where_tied(found: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    """Runs of distances that rounding alone tells apart, each in the order of its indices."""
    runs: list[list[tuple[Any, int]]] = []
    for pair in found:
        if runs and pair[0] - runs[-1][0][0] <= mp.mpf(10) ** -_TIED * pair[0]:
            runs[-1].append(pair)
        else:
            runs.append([pair])
    return [pair for run in runs for pair in sorted(run, key=lambda pair: pair[1])]


def knn_entropy(x: Points, *, k: int = 3, p: float = 2.0, form: str = "psi", smoothing: float = 0.0) -> Any:
    """Differential entropy by the distances to the k-th neighbours, after Kozachenko and Leonenko.

    Parameters
    ----------
    x : sequence of n sequences of d numbers
    k : int
    p : float
        Order of the norm, or ``inf``.
    form : {"psi", "post"}
        ψ(n), or log(n - 1) in its place.
    smoothing : float
        δ of ½ log(ε² + δ²) in place of log ε.

    Returns
    -------
    entropy : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_entropy
    >>> nstr(knn_entropy([[0, 0], [3, 4]], k=1), 10)  # 2 log(5) + log(pi) + 1
    '5.363605711'
    """
    with mp.workdps(_DIGITS):
        n, d = len(x), len(x[0])
        counted = mp.digamma(n) if form == "psi" else mp.log(n - 1)
        lengths = [row[-1] for row in neighbors(x, k, p=p)[0]]
        return d * _mean_log(lengths, smoothing) + _log_ball(d, p) + counted - mp.digamma(k)


def knn_cross_entropy(
    x: Points, y: Points, *, k: int = 3, p: float = 2.0, form: str = "psi", smoothing: float = 0.0
) -> Any:
    """Cross-entropy of the law of x with respect to that of y, by the distances to the k-th neighbours in y.

    Parameters
    ----------
    x, y : sequences of n and of m sequences of d numbers
    k : int
    p : float
        Order of the norm, or ``inf``.
    form : {"psi", "post"}
        ψ(m + 1), or log m in its place.
    smoothing : float
        δ of ½ log(ε² + δ²) in place of log ε.

    Returns
    -------
    cross_entropy : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_cross_entropy
    >>> nstr(knn_cross_entropy([[0]], [[1], [-2]], k=1), 10)  # log(2) + 3/2
    '2.193147181'
    """
    with mp.workdps(_DIGITS):
        m, d = len(y), len(x[0])
        counted = mp.digamma(m + 1) if form == "psi" else mp.log(m)
        lengths = [row[-1] for row in neighbors(y, k, queries=x, p=p)[0]]
        return d * _mean_log(lengths, smoothing) + _log_ball(d, p) + counted - mp.digamma(k)


def knn_kl_divergence(x: Points, y: Points, *, k: int = 3, p: float = 2.0, smoothing: float = 0.0) -> Any:
    """Divergence of the law of x from that of y, after Wang, Kulkarni and Verdú.

    Parameters
    ----------
    x, y : sequences of n and of m sequences of d numbers
    k : int
    p : float
        Order of the norm, or ``inf``.
    smoothing : float
        δ of ½ log(ε² + δ²) in place of log ε.

    Returns
    -------
    divergence : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_kl_divergence
    >>> nstr(knn_kl_divergence([[0], [1]], [[3], [4]], k=1), 10)  # (log(3) + log(2)) / 2 + log(2)
    '1.589026915'
    """
    with mp.workdps(_DIGITS):
        n, m, d = len(x), len(y), len(x[0])
        to_y = [row[-1] for row in neighbors(y, k, queries=x, p=p)[0]]
        to_x = [row[-1] for row in neighbors(x, k, p=p)[0]]
        return d * (_mean_log(to_y, smoothing) - _mean_log(to_x, smoothing)) + mp.log(mp.mpf(m) / (n - 1))


def _mean_log(lengths: list[Any], smoothing: float) -> Any:
    delta = mp.mpf(smoothing)
    return mp.fsum(mp.log(e**2 + delta**2) / 2 if delta else mp.log(e) for e in lengths) / len(lengths)


def _log_ball(d: int, p: float) -> Any:
    """Log volume of the unit ball."""
    if p == mp.inf:
        return d * mp.log(2)
    return d * mp.log(2) + d * mp.loggamma(1 + 1 / mp.mpf(p)) - mp.loggamma(1 + d / mp.mpf(p))
