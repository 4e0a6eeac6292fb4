"""Decisions straight from their definitions: every threshold that makes a difference is tried, metrics are fractions.

Scores are taken as the rational numbers they are. Infinite ones are on the same side of every threshold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp

_DIGITS = 60

Table = Sequence[Sequence[Any]]


class Tuned(NamedTuple):
    """The best thresholds and the metric they reach."""

    thresholds: list[Fraction]
    value: Fraction


def predict_labels(scores: Sequence[float], thresholds: Sequence[Any]) -> list[bool]:
    """Whether each score is greater than the threshold of its label.

    Parameters
    ----------
    scores, thresholds : sequences of C numbers

    Returns
    -------
    list of bool

    Examples
    --------
    >>> from zlpr.reference import predict_labels
    >>> predict_labels([0.5, 0.0], [0.0, 0.0])
    [True, False]
    """
    return [s > t for s, t in zip(scores, thresholds, strict=True)]


def top_k_labels(scores: Sequence[float], k: int) -> list[bool]:
    """Whether fewer than k scores are greater, or equal and of a lower index.

    Parameters
    ----------
    scores : sequence of C floats
    k : int

    Returns
    -------
    list of bool

    Examples
    --------
    >>> from zlpr.reference import top_k_labels
    >>> top_k_labels([1.0, 3.0, 3.0], 1)
    [False, True, False]
    """
    return [
        sum(other > s or (other == s and j < i) for j, other in enumerate(scores)) < k
        for i, s in enumerate(scores)
    ]


def predict_proba(scores: Sequence[float], *, slope: float = 1.0, intercept: float = 0.0) -> list[Any]:
    """1 / (1 + exp(-(slope * s + intercept))) of each score.

    Parameters
    ----------
    scores : sequence of C floats
    slope, intercept : float

    Returns
    -------
    list of mpf

    Examples
    --------
    >>> from zlpr.reference import predict_proba
    >>> predict_proba([0.0])
    [mpf('0.5')]
    """
    with mp.workdps(_DIGITS):
        return [1 / (1 + mp.exp(-(mp.mpf(slope) * mp.mpf(s) + mp.mpf(intercept)))) for s in scores]


def calibration_gradient(
    scores: Sequence[float], targets: Sequence[Any], slope: float, intercept: float
) -> tuple[Any, Any]:
    """Gradient of the calibration's loss in slope and intercept, 0 at its minimum, as a share of what it is made of.

    Parameters
    ----------
    scores, targets : sequences of N numbers
        The targets 0 or 1.
    slope, intercept : float

    Returns
    -------
    tuple of mpf
        Each derivative over the sum of the magnitudes of its terms, a probability's and a target's for each score.

    Examples
    --------
    >>> from zlpr.reference import calibration_gradient
    >>> calibration_gradient([1.0, -1.0], [1, 1], 0.0, 0.0)[1]  # (1/2 - 3/4) / (1/2 + 3/4), twice
    mpf('-0.2')
    """
    with mp.workdps(_DIGITS):
        positives = sum(map(int, targets))
        high = mp.mpf(positives + 1) / (positives + 2)
        low = mp.mpf(1) / (len(targets) - positives + 2)
        pairs = [
            (1 / (1 + mp.exp(-(mp.mpf(slope) * mp.mpf(s) + mp.mpf(intercept)))), high if y else low)
            for s, y in zip(scores, targets, strict=True)
        ]

        def share(factors: Sequence[Any]) -> Any:
            weighed = [(f * (p - t), abs(f) * (p + t)) for f, (p, t) in zip(factors, pairs, strict=True)]
            return sum(w[0] for w in weighed) / (sum(w[1] for w in weighed) or 1)

        return share([mp.mpf(s) for s in scores]), share([mp.mpf(1)] * len(scores))


def metric_value(scores: Table, targets: Table, thresholds: Sequence[Any], metric: str) -> Fraction:
    """A metric of the labels predicted by one threshold a label.

    Parameters
    ----------
    scores, targets : B rows of C numbers
    thresholds : sequence of C numbers
    metric : {"micro_f1", "macro_f1", "subset_accuracy", "hamming"}

    Returns
    -------
    Fraction

    Examples
    --------
    >>> from zlpr.reference import metric_value
    >>> metric_value([[1.0, 2.0]], [[1, 0]], [0.0, 0.0], "micro_f1")  # a hit and a false alarm
    Fraction(2, 3)
    """
    predicted = [predict_labels(row, thresholds) for row in scores]
    return _METRICS[metric](predicted, [list(map(bool, row)) for row in targets])


def tune_threshold(scores: Table, targets: Table, metric: str, *, per_label: bool = False) -> Tuned:
    """Try one threshold between any two neighbouring scores, and one beyond them on either side.

    Parameters
    ----------
    scores, targets : B rows of C numbers
    metric : {"micro_f1", "macro_f1", "subset_accuracy", "hamming"}
    per_label : bool
        All combinations of a threshold a label are tried: for few rows and labels only.

    Returns
    -------
    Tuned
        Of several best thresholds the one nearest 0, for every label, and the lower one of two as near.

    Examples
    --------
    >>> from zlpr.reference import tune_threshold
    >>> tune_threshold([[2.0, -1.0], [-0.5, -3.0]], [[1, 1], [0, 0]], "micro_f1")
    Tuned(thresholds=[Fraction(-2, 1)], value=Fraction(4, 5))
    """
    columns = [list(column) for column in zip(*scores, strict=True)]
    if per_label:
        choices: Iterator[tuple[Fraction, ...]] = itertools.product(*map(_candidates, columns))
    else:
        ends = _row_ends(scores, targets) if metric == "subset_accuracy" else list(itertools.chain(*columns))
        choices = ((t,) for t in _candidates(ends))
    best, at = Fraction(-1), [Fraction(0)]
    for choice in choices:
        thresholds = list(choice) if per_label else list(choice) * len(columns)
        value = metric_value(scores, targets, thresholds, metric)
        nearness = [(abs(t), t) for t in choice]
        if value > best or (value == best and nearness < [(abs(t), t) for t in at]):
            best, at = value, list(choice)
    return Tuned(at, best)


def _candidates(values: Sequence[float]) -> list[Fraction]:
    """A threshold for every way in which one can part the values."""
    finite = sorted({Fraction(float(v)) for v in values if math.isfinite(v)})
    if not finite:
        return [Fraction(0)]
    inner = [(low + high) / 2 for low, high in itertools.pairwise(finite)]
    below = Fraction(0) if finite[0] > 0 else 2 * finite[0] - 1
    above = Fraction(0) if finite[-1] <= 0 else 2 * finite[-1] + 1
    return [below, *inner, above]


def _row_ends(scores: Table, targets: Table) -> list[float]:
    """Where some row becomes right, or wrong again."""
    ends = []
    for row, truth in zip(scores, targets, strict=True):
        low = max((s for s, y in zip(row, truth, strict=True) if not y), default=-math.inf)
        high = min((s for s, y in zip(row, truth, strict=True) if y), default=math.inf)
        ends += [low, high] if low < high else []
    return ends


def _f1(predicted: Sequence[bool], truth: Sequence[bool]) -> Fraction:
    either = sum(predicted) + sum(truth)
    hits = sum(p and y for p, y in zip(predicted, truth, strict=True))
    return Fraction(2 * hits, either) if either else Fraction(0)


def _micro_f1(predicted: list[list[bool]], truth: list[list[bool]]) -> Fraction:
    return _f1(list(itertools.chain(*predicted)), list(itertools.chain(*truth)))


def _macro_f1(predicted: list[list[bool]], truth: list[list[bool]]) -> Fraction:
    pairs = list(zip(zip(*predicted, strict=True), zip(*truth, strict=True), strict=True))
    return sum((_f1(p, y) for p, y in pairs), Fraction(0)) / len(pairs)


def _subset_accuracy(predicted: list[list[bool]], truth: list[list[bool]]) -> Fraction:
    return Fraction(sum(p == y for p, y in zip(predicted, truth, strict=True)), len(truth))


def _hamming(predicted: list[list[bool]], truth: list[list[bool]]) -> Fraction:
    p, y = list(itertools.chain(*predicted)), list(itertools.chain(*truth))
    return Fraction(sum(a == b for a, b in zip(p, y, strict=True)), len(y))


_METRICS: dict[str, Callable[[list[list[bool]], list[list[bool]]], Fraction]] = {
    "micro_f1": _micro_f1,
    "macro_f1": _macro_f1,
    "subset_accuracy": _subset_accuracy,
    "hamming": _hamming,
}
