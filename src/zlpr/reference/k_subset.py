"""The choose-k-of-n softmax straight from its definition, at high precision, one row at a time.

The partition function is an elementary symmetric polynomial, by its recurrence from class to class; the probability
that a class is in the set comes from the polynomials of the classes before it and after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

from zlpr.reference.losses import Exact

_DIGITS = 60


def k_subset_cross_entropy(
    scores: Sequence[float],
    targets: Sequence[float],
    *,
    at_most: int | None = None,
    threshold: float = 0.0,
    mask: Sequence[bool] | None = None,
) -> Exact:
    """The log of Z_k less Σ s over the positives, or of Σ_j e^((K - j) s0) Z_j less Σ s + (K - k) s0: post 7359.

    Parameters
    ----------
    scores : sequence of C floats
        Infinite ones are taken as growing together.
    targets : sequence of C numbers, 0 or 1
    at_most : int, optional
    threshold : float
    mask : sequence of C bools, optional

    Returns
    -------
    Exact
        Value in nats, gradient, Hessian diagonal, and gradient with respect to the threshold.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import k_subset_cross_entropy
    >>> nstr(k_subset_cross_entropy([0.0, 0.0, 0.0], [1, 1, 0]).value, 10)  # log(3)
    '1.098612289'
    """
    counted = [i for i in range(len(scores)) if mask is None or mask[i]]
    s, y = [mp.mpf(scores[i]) for i in counted], [int(targets[i]) for i in counted]
    if any(mp.isnan(x) for x in s):
        gradient = [mp.nan if i in counted else mp.mpf(0) for i in range(len(scores))]
        return Exact(mp.nan, gradient, gradient, mp.nan)
    finite = [x for x in s if not mp.isinf(x)]
    span = max([abs(x - mp.mpf(threshold)) for x in finite], default=mp.mpf(0))
    with mp.workdps(_DIGITS + int(2 * span / mp.log(10))):
        value, chances, size = _of_row(s, y, at_most, mp.mpf(threshold))
        gradient, hessian = [mp.mpf(0)] * len(scores), [mp.mpf(0)] * len(scores)
        for i, p, t in zip(counted, chances, y, strict=True):
            gradient[i], hessian[i] = p - t, p * (1 - p)
        return Exact(value, gradient, hessian, sum(y) - size)


def _of_row(s: list[Any], y: list[int], at_most: int | None, s0: Any) -> tuple[Any, list[Any], Any]:
    """Value, the probability of each class to be in the set, and the mean size of the set."""
    k = sum(y)
    places = k if at_most is None else at_most
    sure = [i for i, x in enumerate(s) if x == mp.inf]
    finite = [i for i, x in enumerate(s) if not mp.isinf(x)]
    out = [i for i, x in enumerate(s) if x == -mp.inf]
    chances = [mp.mpf(0)] * len(s)
    if len(sure) > places or (at_most is not None and len(sure) == places):
        shared, full, left = sure, [], places  # the infinite ones share the places
        fits = sum(y[i] for i in sure) == places == k
    elif at_most is None and len(sure) + len(finite) < places:
        shared, full, left = out, sure + finite, places - len(sure) - len(finite)
        fits = all(y[i] for i in full)
    else:
        return _with_finite(s, y, places - len(sure), at_most is not None, s0, (sure, finite, out))
    chances = [mp.mpf(left) / len(shared) if i in shared else mp.mpf(i in full) for i in range(len(s))]
    return mp.log(mp.binomial(len(shared), left)) if fits else mp.inf, chances, mp.mpf(places)


def _with_finite(
    s: list[Any], y: list[int], places: int, fewer: bool, s0: Any, groups: tuple[list[int], ...]
) -> tuple[Any, list[Any], Any]:
    """As `_of_row`, where all of the scores at infinity are in and those at minus infinity out."""
    sure, finite, out = groups
    if not fewer and places in (0, len(finite)):
        chances = [mp.mpf(i in sure or (places > 0 and i in finite)) for i in range(len(s))]
        fits = all(y[i] == (c > 0) for i, c in enumerate(chances))
        return mp.mpf(0) if fits else mp.inf, chances, mp.fsum(chances)
    chances = [mp.mpf(i in sure) for i in range(len(s))]
    weights = [mp.exp(s[i] - s0) for i in finite]
    sizes = range(places + 1) if fewer else (places,)
    before, after = _running(weights, places), _running(weights[::-1], places)[::-1]
    total = mp.fsum(before[-1][j] for j in sizes)
    for place, i in enumerate(finite):
        pairs = ((a, j - 1 - a) for j in sizes for a in range(j))
        chances[i] = (
            weights[place] * mp.fsum(before[place][a] * after[place + 1][b] for a, b in pairs) / total
        )
    size = mp.fsum(j * before[-1][j] for j in sizes) / total
    if not all(y[i] for i in sure) or any(y[i] for i in out):
        return mp.inf, chances, size + len(sure)
    own = mp.fprod(weights[place] for place, i in enumerate(finite) if y[i])
    return mp.log1p((total - own) / own), chances, size + len(sure)


def _running(weights: list[Any], most: int) -> list[list[Any]]:
    """The elementary symmetric polynomials of the first 0, 1, ... weights, up to an order."""
    sums = [[mp.mpf(1)] + [mp.mpf(0)] * most]
    for w in weights:
        last = sums[-1]
        sums.append([last[0]] + [last[j] + w * last[j - 1] for j in range(1, most + 1)])
    return sums
