"""Measures of information by looking at all pairs of points, written from their formulas.

Variables are lists of points. Distances are exact to 60 digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

from zlpr.reference.entropy import Points, knn_entropy

_DIGITS = 60
_TIED = mp.mpf(10) ** -40  # equal distances agree in 59 digits


def knn_mutual_information(
    x: Points,
    y: Points,
    *,
    k: int = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    p: float = mp.inf,
) -> Any:
    """Mutual information of two variables, after Kraskov, Stögbauer and Grassberger.

    Parameters
    ----------
    x, y : sequences of n sequences of numbers
    k : int
    estimator : {"ksg1", "ksg2", "3h"}
    standardize : bool or "rank"
    p : float
        Order of the norm of "3h".

    Returns
    -------
    information : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_mutual_information
    >>> nstr(knn_mutual_information([[0], [1], [3], [7]], [[0], [1], [3], [7]], k=1), 10)  # 1 + 1/2 + 1/3
    '1.833333333'
    """
    return _information([x, y], [(1, [0]), (1, [1])], k, estimator, standardize, p)


def knn_conditional_mutual_information(
    x: Points,
    y: Points,
    z: Points,
    *,
    k: int = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    p: float = mp.inf,
) -> Any:
    """Mutual information of x and y given z.

    Parameters
    ----------
    x, y, z : sequences of n sequences of numbers
    k, estimator, standardize, p
        As for `knn_mutual_information`.

    Returns
    -------
    information : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_conditional_mutual_information
    >>> x = [[0], [1], [3], [7]]
    >>> nstr(knn_conditional_mutual_information(x, x, [[0]] * 4, k=1), 10)
    '1.833333333'
    """
    terms = [(1, [0, 2]), (1, [1, 2]), (-1, [2])]
    return _information([x, y, z], terms, k, estimator, standardize, p)


def knn_total_correlation(
    x: Points,
    *,
    k: int = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    p: float = mp.inf,
) -> Any:
    """Total correlation of the coordinates of x.

    Parameters
    ----------
    x : sequence of n sequences of numbers
    k, estimator, standardize, p
        As for `knn_mutual_information`.

    Returns
    -------
    correlation : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_total_correlation
    >>> nstr(knn_total_correlation([[0, 0], [1, 1], [3, 3], [7, 7]], k=1), 10)
    '1.833333333'
    """
    variables = [[[value] for value in column] for column in zip(*x, strict=True)]
    return _information(variables, [(1, [i]) for i in range(len(variables))], k, estimator, standardize, p)


def knn_transfer_entropy(
    source: Points,
    target: Points,
    *,
    lag: int = 1,
    history: int = 1,
    source_history: int = 1,
    k: int = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    p: float = mp.inf,
) -> Any:
    """Transfer entropy from a source to a target series.

    Parameters
    ----------
    source, target : sequences of n sequences of numbers, in time
    lag, history, source_history : int
    k, estimator, standardize, p
        As for `knn_mutual_information`.

    Returns
    -------
    transfer : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_transfer_entropy
    >>> nstr(knn_transfer_entropy([[0], [1], [3], [7]], [[5], [0], [1], [3]], k=1), 3)
    '1.0'
    """
    times = range(max(history, lag + source_history - 1), len(target))
    x = [[v for j in range(source_history) for v in source[t - lag - j]] for t in times]
    y = [list(target[t]) for t in times]
    z = [[v for j in range(1, history + 1) for v in target[t - j]] for t in times]
    return knn_conditional_mutual_information(x, y, z, k=k, estimator=estimator, standardize=standardize, p=p)


def knn_mutual_information_discrete(
    x: Points, labels: Sequence[int], *, k: int = 3, standardize: bool | str = True, p: float = mp.inf
) -> Any:
    """Mutual information of a continuous variable and a label, after Ross.

    Parameters
    ----------
    x : sequence of n sequences of numbers
    labels : sequence of n hashable values
    k : int
    standardize : bool or "rank"
    p : float
        Order of the norm.

    Returns
    -------
    information : mpf
        In nats.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import knn_mutual_information_discrete
    >>> nstr(knn_mutual_information_discrete([[0], [1], [7], [9]], [0, 0, 1, 1], k=1), 10)  # 1/2 + 1/3
    '0.8333333333'
    """
    with mp.workdps(_DIGITS):
        points = _scaled(x, standardize)
        kept = [i for i, label in enumerate(labels) if list(labels).count(label) > 1]
        terms = []
        for i in kept:
            lengths = {j: _length(points[i], points[j], p) for j in kept if j != i}
            alike = sorted(length for j, length in lengths.items() if labels[j] == labels[i])
            near = min(k, len(alike))
            inside = sum(length < alike[near - 1] * (1 - _TIED) for length in lengths.values())
            terms.append(mp.digamma(near) - mp.digamma(len(alike) + 1) - mp.digamma(inside + 1))
        return mp.digamma(len(kept)) + mp.fsum(terms) / len(kept)


def _information(
    variables: Sequence[Points],
    terms: Sequence[tuple[int, list[int]]],
    k: int,
    estimator: str,
    standardize: bool | str,
    p: float,
) -> Any:
    """The signed sum of entropies of some variables, less that of all."""
    with mp.workdps(_DIGITS):
        scaled = [_scaled(variable, standardize) for variable in variables]
        every = list(range(len(variables)))
        if estimator == "3h":
            return mp.fsum(
                sign * knn_entropy(_beside([scaled[i] for i in members]), k=k, p=p)
                for sign, members in [*terms, (-1, every)]
            )
        return _by_counting(scaled, terms, k, estimator)


def _beside(variables: Sequence[Points]) -> Points:
    return [[value for point in row for value in point] for row in zip(*variables, strict=True)]


def _by_counting(
    variables: Sequence[Points], terms: Sequence[tuple[int, list[int]]], k: int, estimator: str
) -> Any:
    n, count, local = len(variables[0]), len(variables), []
    for i in range(n):
        gaps = {j: [_length(v[i], v[j], mp.inf) for v in variables] for j in range(n) if j != i}
        near = sorted(gaps, key=lambda j: (max(gaps[j]), j))[:k]
        if estimator == "ksg1":
            side = max(gaps[near[-1]])
            boxes = [side * (1 - _TIED)] * count
        else:
            boxes = [max(gaps[j][v] for j in near) * (1 + _TIED) for v in range(count)]
        total = mp.mpf(0)
        for sign, members in terms:
            inside = sum(all(gap[v] <= boxes[v] for v in members) for gap in gaps.values())
            if estimator == "ksg1":
                counted = mp.digamma(inside + 1)
            else:
                counted = mp.digamma(inside) - mp.mpf(len(members) - 1) / inside
            total += sign * (mp.digamma(n) - counted)
        local.append(total)
    taken = mp.mpf(count - 1) / k if estimator == "ksg2" else 0
    return mp.digamma(k) - taken - mp.digamma(n) + mp.fsum(local) / n


def _length(a: Sequence[Any], b: Sequence[Any], p: float) -> Any:
    gaps = [abs(mp.mpf(s) - mp.mpf(t)) for s, t in zip(a, b, strict=True)]
    return max(gaps) if p == mp.inf else mp.fsum(gap ** mp.mpf(p) for gap in gaps) ** (1 / mp.mpf(p))


def _scaled(variable: Points, standardize: bool | str) -> Points:
    if standardize is False:
        return variable
    scale = _ranked if standardize == "rank" else _standardised
    columns = [scale([mp.mpf(v) for v in column]) for column in zip(*variable, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def _standardised(column: Sequence[Any]) -> list[Any]:
    n = len(column)
    mean = mp.fsum(column) / n
    spread = mp.sqrt(mp.fsum((v - mean) ** 2 for v in column) / (n - 1))
    return [(v - mean) / (spread or 1) for v in column]


def _ranked(column: Sequence[Any]) -> list[Any]:
    """Normal quantiles of the mean ranks."""
    n, scores = len(column), []
    for v in column:
        rank = sum(u < v for u in column) + mp.mpf(sum(u == v for u in column) + 1) / 2
        scores.append(mp.sqrt(2) * mp.erfinv(2 * rank / (n + 1) - 1))
    return scores
