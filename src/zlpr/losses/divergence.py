"""Divergences of the label probabilities that two score vectors stand for.

Used to make two passes over the same example agree (R-Drop, virtual adversarial training). Near agreement the value
is of second order in the difference, so nothing here subtracts two losses. The algebra is in
``docs/derivations/divergence.md``.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import NamedTuple

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss

__all__ = ["zlpr_divergence"]


@row_loss(wrt=("scores_p", "scores_q"), arrays=("scores_p", "scores_q"), separable=True, workspace=2.0)
def zlpr_divergence(
    rows: Rows, shares: Array | None, *, symmetric: bool = True
) -> tuple[Array, dict[str, Array]]:
    r"""Divergence of two score vectors as sums of Bernoulli divergences, in nats.

    .. math::

        D(p, q) = \sum_i \big(\sigma(p_i) - \sigma(q_i)\big)(p_i - q_i)
                = \sum_i \mathrm{KL}(p_i \,\|\, q_i) + \mathrm{KL}(q_i \,\|\, p_i)

    with scores :math:`p` and :math:`q`, and :math:`\mathrm{KL}` between Bernoulli distributions of probabilities
    :math:`\sigma(p_i)` and :math:`\sigma(q_i)`; or the first of the two alone.

    Parameters
    ----------
    scores_p, scores_q : (..., C) arrays
        float16, bfloat16, float32 or float64, of one shape. Both differentiable.
    symmetric : bool, default True
        False for the one-way divergence :math:`\mathrm{KL}(p \,\|\, q)`.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts.
    axis : int, default -1
        The class axis.

    Returns
    -------
    divergence : array
        0-d, or (...) for ``reduction="none"``; nats; 0 where the scores are the same.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the first, or of a wrong dtype.
    ValueError
        If shapes or devices differ.

    Notes
    -----
    Scores are minima of ZLPR at half the log-odds, so ``zlpr_divergence(2 * p, 2 * q)`` compares the probabilities
    that ZLPR scores stand for under soft labels. Where the scores agree to many digits the value keeps its own: it
    is computed from their difference. Equal infinite scores agree. The Hessian is that with respect to the first
    scores.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 9039 (the symmetric form, for R-Drop).
    .. [2] X. Liang et al., "R-Drop: Regularized Dropout for Neural Networks", arXiv:2106.14448, 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_divergence, zlpr_loss

    The same example under two dropout masks, and what R-Drop adds to its two losses:

    >>> first, second = np.asarray([[2.0, -1.0]]), np.asarray([[1.0, -1.5]])
    >>> targets = np.asarray([[True, False]])
    >>> fit = zlpr_loss(first, targets) + zlpr_loss(second, targets)
    >>> agreement, (slope, _) = zlpr_divergence.value_and_grad(first, second, argnums=(0, 1))
    >>> round(float(fit + 4.0 / 2 * agreement), 6), slope.round(6)
    (1.340858, array([[0.254732, 0.184822]]))
    """
    pair = _pair(rows)
    difference = _difference(pair)
    terms = _both_ways(pair, difference) if symmetric else _one_way(pair, difference)
    values = _ops.row_sum(rows.counted(terms))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "scores_p" in rows.needs:
        slope = _slope_times_gap(pair)
        slope = _ops.add_(slope, difference) if symmetric else slope
        gradients["scores_p"] = _ops.multiply_(rows.counted(slope), shares[:, None])
    if "scores_q" in rows.needs:
        slope = _slope_times_gap(pair.exchanged()) if symmetric else 0.0
        gradients["scores_q"] = _ops.multiply_(rows.counted(slope - difference), shares[:, None])
    return values, gradients


@zlpr_divergence.diagonal
def _diagonal(rows: Rows, *, symmetric: bool = True) -> Array:
    """``σ'(p) (c - (p - q) tanh(p / 2))``, c = 2 for the symmetric divergence and 1 for the other."""
    xp, pair = _array.namespace(rows.scores), _pair(rows)
    bent, bend = _slope_times_gap(pair), xp.tanh(0.5 * pair.p.scores)
    bent = _ops.where((bend == 0) & (xp.abs(bent) == math.inf), 0.0, bent * bend, bent)
    return rows.counted(_variance(pair.p) * (2.0 if symmetric else 1.0) - bent)


class _Odds(NamedTuple):
    """Scores, their sizes, ``exp(-|s|)`` and 1 + that: 1 / whole and tail / whole are the probabilities.

    Or, one-sided, ``exp(s)`` for the tail, of which the size is not known.
    """

    scores: Array
    size: Array | None
    tail: Array
    whole: Array


class _Pair(NamedTuple):
    """Both odds and ``p - q``, 0 where they are infinite and the same; whether it is known to be finite."""

    p: _Odds
    q: _Odds
    gap: Array
    finite: bool
    one_sided: bool

    def exchanged(self) -> _Pair:
        return self._replace(p=self.q, q=self.p, gap=-self.gap)


def _pair(rows: Rows) -> _Pair:
    p, q = rows.scores, rows.labels[0]
    gap = p - q
    products_are_finite = 0.5 * _ops.log_max(gap) - 1.0
    if rows.lies_within(products_are_finite, p) and rows.lies_within(products_are_finite, q):
        return _Pair(_one_sided_odds(p), _one_sided_odds(q), gap, finite=True, one_sided=True)
    return _two_sided_pair(p, q, gap, rows.lies_within(math.inf, gap))


def _two_sided_pair(p: Array, q: Array, gap: Array, finite: bool) -> _Pair:
    if not finite:
        same = (p == q) & (_array.namespace(p).abs(p) == math.inf)
        gap = _ops.where(same, 0.0, gap, gap)
    return _Pair(_odds(p, finite), _odds(q, finite), gap, finite, one_sided=False)


def _odds(scores: Array, is_plain: bool) -> _Odds:
    # To be differentiated again, the size needs the slope of one of its sides at 0, which `abs` has not.
    size = (
        _array.namespace(scores).abs(scores) if is_plain else _ops.where(scores >= 0, scores, -scores, scores)
    )
    tail = _ops.exp_(-size)
    return _Odds(scores, size, tail, 1 + tail)


def _one_sided_odds(scores: Array) -> _Odds:
    tail = _array.namespace(scores).exp(scores)
    return _Odds(scores, None, tail, 1 + tail)


def _variance(p: _Odds) -> Array:
    """The derivative of the probability."""
    return p.tail / (p.whole * p.whole)


def _slope_times_gap(pair: _Pair) -> Array:
    """``σ'(p) (p - q)``; infinite where q alone is.

    A derivative of 0, also one that underflowed, makes no nan of a gap that overflowed.
    """
    p, q, gap, finite, _ = pair
    if finite:
        return _ops.multiply_(_variance(p), gap)
    xp = _array.namespace(gap)
    largest = float(xp.finfo(gap.dtype).max)
    product = _variance(p) * _ops.clip(gap, -largest, largest)
    alone = (xp.abs(q.scores) == math.inf) & (xp.abs(p.scores) != math.inf)
    return xp.where(alone, gap, product)


def _difference(pair: _Pair) -> Array:
    """``σ(p) - σ(q)`` as ``tanh((p - q) / 2)`` times ``σ(p) σ(-q) + σ(-p) σ(q)``, in one fraction."""
    p, q, gap, _, one_sided = pair
    shared = p.tail + q.tail
    if not one_sided:
        alike = (p.scores >= 0) == (q.scores >= 0)
        shared = _ops.where(alike, shared, 1 + p.tail * q.tail, gap)
    return _ops.multiply_(_array.namespace(gap).tanh(0.5 * gap), shared) / (p.whole * q.whole)


def _both_ways(pair: _Pair, difference: Array) -> Array:
    """``(p - q) (σ(p) - σ(q))``."""
    gap, terms = pair.gap, pair.gap * difference
    return (
        terms if pair.finite else _ops.where(_array.namespace(gap).abs(gap) == math.inf, math.inf, terms, gap)
    )


_NEAR = 2.0


def _one_way(pair: _Pair, difference: Array) -> Array:
    """``KL(p || q)`` of each class, from the difference where the scores are near one another."""
    is_far = _array.namespace(difference).abs(pair.gap) > _NEAR
    near, scores = _one_way_near(pair, difference), (pair.p.scores, pair.q.scores)
    return _ops.where_few(is_far, lambda p, q: _one_way_far(p, q, pair.finite), near, *scores)


def _one_way_near(pair: _Pair, difference: Array) -> Array:
    """Half the symmetric divergence, and half of what the two ways differ by: a series in ``tanh(gap / 4)``."""
    xp, gap = _array.namespace(difference), pair.gap
    x = xp.tanh(0.25 * gap)
    x = _ops.multiply_(x, x)
    c = xp.tanh(0.25 * pair.p.scores + 0.25 * pair.q.scores)
    y = x * c * c
    first, second, *others = _series(float(xp.finfo(gap.dtype).eps))
    terms = _ops.add_(x * first, second)
    total = y * first + terms
    for coefficient in others:
        terms = _ops.add_(_ops.multiply_(terms, x), coefficient)
        total = _ops.add_(_ops.multiply_(total, y), terms)
    odd = _ops.multiply_(_ops.multiply_(_ops.multiply_(total, x), c), 2.0)
    return _ops.multiply_(_ops.subtract_(0.5 * gap, odd), difference)


def _one_way_far(scores_p: Array, scores_q: Array, is_finite: bool) -> Array:
    """Cross-entropy less entropy, with nothing in either that the other one has too."""
    p, q, gap, finite, _ = _two_sided_pair(scores_p, scores_q, scores_p - scores_q, is_finite)
    xp = _array.namespace(gap)
    of_p, of_q = p.size, q.size
    assert of_p is not None  # which only one-sided odds lack
    assert of_q is not None
    same = (p.scores >= 0) == (q.scores >= 0)
    if not finite:
        of_p = _ops.where(of_p == math.inf, 0.0, of_p, of_p)  # the tail is 0 there
        same = same & (of_q != math.inf)
    linear = _ops.where(same, p.tail * (of_q - of_p), of_q - p.tail * of_p, gap)
    apart = q.tail - p.tail
    logs = xp.log1p(
        xp.abs(apart) / xp.minimum(p.whole, q.whole)
    )  # XLA's log1p has no digits to spare below 0
    return linear / p.whole + xp.copysign(logs, apart)


@functools.cache
def _series(eps: float) -> list[float]:
    """A polynomial for the series of ``2 / ((2k + 1) (2k + 3))``, k from 0 on, up to the end of what is near."""
    reach, terms = Fraction(math.tanh(_NEAR / 4) ** 2), [Fraction(2, 3)]
    while terms[-1] * reach ** len(terms) > eps / 512:
        k = len(terms)
        terms.append(Fraction(2, (2 * k + 1) * (2 * k + 3)))
    return _constants.economized(terms, reach, eps / 512)
