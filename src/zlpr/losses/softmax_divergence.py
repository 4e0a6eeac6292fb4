"""Divergence of the distributions over one of C classes that two score vectors stand for.

Near agreement the value is of second order in the difference, so nothing here subtracts two cross-entropies. The
algebra is in ``docs/derivations/divergence.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.losses.gaussian import exp_beyond_line
from zlpr.rules import Rows, row_loss

__all__ = ["softmax_divergence"]


@row_loss(wrt=("scores_p", "scores_q"), arrays=("scores_p", "scores_q"), workspace=4.0)
def softmax_divergence(rows: Rows, shares: Array | None) -> tuple[Array, dict[str, Array]]:
    r"""Kullback-Leibler divergence of two softmax distributions, in nats.

    .. math:: \mathrm{KL}(P \,\|\, Q) = \sum_i P_i \log \frac{P_i}{Q_i}, \qquad
        P = \operatorname{softmax}(p), \quad Q = \operatorname{softmax}(q)

    Parameters
    ----------
    scores_p, scores_q : (..., C) arrays
        float16, bfloat16, float32 or float64, of one shape. Both differentiable.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts; a row in which none does has the divergence 0.
    axis : int, default -1
        The class axis.

    Returns
    -------
    divergence : array
        0-d, or (...) for ``reduction="none"``; nats; 0 where the scores differ by a constant.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the first, or of a wrong dtype.
    ValueError
        If shapes or devices differ.

    Notes
    -----
    Where the scores agree to many digits the value keeps its own: it is a sum of positive terms of their difference.
    Value and gradients are within 16 ulp of the row's largest entry, as long as probabilities are normal numbers.
    A score of ``-inf`` has the probability 0, several of ``inf`` share it equally. The Hessian is that with respect to
    the first scores; where both agree it is the Fisher matrix :math:`\operatorname{diag} P - P P^\top`.

    References
    ----------
    .. [1] T. Miyato et al., "Virtual adversarial training", arXiv:1704.03976, equation 5 (its use).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import softmax_divergence
    >>> value, gradient = softmax_divergence.value_and_grad(np.zeros((1, 2)), np.log([[1.0, 3.0]]), argnums=1)
    >>> round(float(value), 6), gradient
    (0.143841, array([[-0.25,  0.25]]))
    """
    if 0 in rows.scores.shape:
        return _ops.row_sum(rows.scores), dict.fromkeys(rows.needs, rows.scores)
    p = _pair(rows)
    values = _value(p, rows.host)
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "scores_p" in rows.needs:
        gradients["scores_p"] = _ops.multiply_(p.full(-p.share * p.possible_gap()), shares[:, None])
    if "scores_q" in rows.needs:
        gradients["scores_q"] = _ops.multiply_(_difference(p), shares[:, None])
    return values, gradients


@softmax_divergence.diagonal
def _diagonal(rows: Rows) -> Array:
    """``P (1 - P) (1 - c) + P² c``, c the centred difference of the scores."""
    if 0 in rows.scores.shape:
        return rows.scores
    p = _pair(rows)
    gap = p.possible_gap()
    return rows.counted(p.full(p.share * (_rest(p.share) * (p.unit - gap) + p.share * gap)))


@softmax_divergence.product
def _product(rows: Rows, v: Array) -> Array:
    """``P ((1 - c) w + (c P)·w)`` with ``w = v - P·v``."""
    if 0 in rows.scores.shape:
        return rows.scores * v
    p = _pair(rows)
    gap = p.possible_gap()
    w = _ops.centred(p.share, v)
    return rows.counted(p.full(p.share * ((p.unit - gap) * w + _ops.row_sum(gap * p.share * w)[:, None])))


class _Pair(NamedTuple):
    """What value and gradients are made of, each (B, C); scores and their differences in the unit."""

    share: Array
    """P"""
    whole: Array
    """what exponentials of p were divided by"""
    gap: Array
    """c: q - p less its mean under P, so that KL = log Σ P exp(c)"""
    centre: Array
    """(B, 1), that mean, of q - p less that of the likeliest class"""
    step: Array
    """q - p less that of the likeliest class, to its last digits"""
    ahead: Array
    """q less that of the likeliest class"""
    ahead_low: Array
    """what rounding took off that"""
    scores_q: Array
    """q without infinite scores"""
    unit: float
    """1 where all scores are known to be far from overflow"""

    def full(self, x: Array) -> Array:
        """What counts in the unit, in its size."""
        return x if self.unit == 1 else x / self.unit

    def possible_gap(self) -> Array:
        """The gap, 0 for classes of probability 0, where that makes a difference."""
        return self.gap if self.unit == 1 else _ops.where(self.share == 0, 0.0, self.gap, self.gap)


_PLAIN = 1e6
_UNIT = 0.125  # of other scores, so that sums of their differences stay in the range of the dtype


def _pair(rows: Rows) -> _Pair:
    p, q = rows.scores, rows.labels[0]
    if rows.mask is None and rows.lies_within(_PLAIN, p) and rows.lies_within(_PLAIN, q):
        return _pair_of(p, q, 1.0)
    return _pair_of(_UNIT * _with_finite_top(p, rows.mask), _UNIT * _with_finite_top(q, rows.mask), _UNIT)


def _pair_of(p: Array, q: Array, unit: float) -> _Pair:
    """Of scores in a unit, 1 where they are plain."""
    plain, first = unit == 1, _ops.argmax(p)
    distance, low = _ops.exact_difference(p, _ops.chosen(p, first)[:, None], is_finite=plain)
    share, whole = _shares(distance, low, unit)
    start = _ops.chosen(q, first)[:, None]
    start_known = start if plain else _ops.where(start == -math.inf, 0.0, start, q)
    ahead, ahead_low = _ops.exact_difference(q, start_known, is_finite=plain)
    step, step_low = _ops.exact_difference(ahead, distance, is_finite=plain)
    step = step + (step_low + (ahead_low - low))
    if plain:
        centre = _ops.row_sum(share * step)[:, None]
        return _Pair(share, whole, step - centre, centre, step, ahead, ahead_low, q, unit)
    impossible = (q == -math.inf) & (share != 0)
    gap = _ops.where(impossible, 0.0, step, step)
    centre = _ops.row_sum(_ops.where(share == 0, 0.0, share * gap, share))[:, None]
    gap = _ops.where(impossible, -math.inf, gap - centre, gap)
    step = _ops.where(start == -math.inf, math.nan, step, step)  # no class gains on an impossible one
    return _Pair(share, whole, gap, centre, step, ahead, ahead_low, q, unit)


def _value(p: _Pair, host: bool) -> Array:
    """The logarithm of 1 and terms ``P (exp(c) - 1 - c)``, of which none is negative."""
    xp, share = _array.namespace(p.share), p.share
    exponent, lacking = _ops.exact_difference(p.ahead, p.centre, is_finite=p.unit == 1)
    exponent, lacking, change = p.full(exponent), p.full(lacking + p.ahead_low), p.full(p.gap)
    shift = _shift(_ops.row_max(exponent), _ops.log_max(share) - math.log(share.shape[-1] + 1) - 1)
    scaled = share
    if not (host and bool(xp.all(shift == 0))):
        exponent, shift_low = _ops.exact_difference(_finite(exponent), _finite(shift)[:, None])
        scaled, lacking = share * xp.exp(-shift)[:, None], lacking + shift_low

    def far(
        exponent: Array, lacking: Array, whole: Array, share: Array, scaled: Array, change: Array
    ) -> Array:
        other = _ops.nudged_(xp.exp(exponent), lacking) / whole
        return other - _ops.where(share == 0, 0.0, scaled * (1 + _finite(change)), share)

    near = _ops.multiply_(exp_beyond_line(_ops.clip(change, -math.inf, 1.0))[1], scaled)
    if p.unit != 1:
        near = _ops.where(change == -math.inf, math.inf, near, near)
    is_far = (change >= 1) | (share == 0)
    whole = xp.broadcast_to(p.whole, share.shape)
    terms = _ops.where_few(is_far, far, near, exponent, lacking, whole, share, scaled, change)
    return shift + xp.log1p(_ops.row_sum(terms) + xp.expm1(-shift))


def _shift(largest: Array, limit: float) -> Array:
    """What brings the largest exponent down to the limit; all of it where numbers are too coarse for that."""
    shift = _ops.relu(largest - limit)
    return _array.namespace(shift).where(largest - shift > limit + 0.5, largest, shift)


def _finite(x: Array) -> Array:
    return _ops.clip(x, -math.inf, float(_array.namespace(x).finfo(x.dtype).max))


def _difference(p: _Pair) -> Array:
    """Q - P: from what each class gains on the likeliest, or from the shares where that has fewer digits."""
    xp, q = _array.namespace(p.share), p.scores_q
    other, _ = _shares(*_ops.exact_difference(q, _ops.row_max(q)[:, None], is_finite=p.unit == 1), p.unit)

    def far(ahead: Array, low: Array, whole: Array, share: Array) -> Array:
        return _ops.nudged_(xp.exp(ahead), low) / whole - share

    step, ahead, ahead_low = p.full(p.step), p.full(p.ahead), p.full(p.ahead_low)
    near = p.share * _ops.expm1(_ops.clip(step, -math.inf, 1.0))
    is_far = (step >= 1) | (p.share == 0)
    whole = xp.broadcast_to(p.whole, p.share.shape)
    gains = _ops.where_few(is_far, far, near, ahead, ahead_low, whole, p.share)
    gain = _ops.row_sum(gains)[:, None]
    is_exact = (gain > -0.5) & (gain < math.inf)
    return xp.where(is_exact, (gains - p.share * gain) / (1 + gain), other - p.share)


def _shares(distance: Array, low: Array, unit: float) -> tuple[Array, Array]:
    """The softmax of scores less the largest of them, in a unit, and what the exponentials were divided by."""
    if unit != 1:
        distance, low = distance / unit, low / unit
    exps = _ops.nudged_(_array.namespace(distance).exp(distance), low)
    whole = _ops.row_sum(exps)[:, None]
    return exps / whole, whole


def _with_finite_top(scores: Array, mask: Array | None) -> Array:
    """Scores of the same softmax with no ``inf`` in them, ``-inf`` at what does not count; nan where one is."""
    if mask is not None:
        scores = _ops.where(mask, scores, -math.inf, scores)
    top = _ops.row_max(scores)[:, None]
    scores = _ops.where(
        top == math.inf, _ops.where(scores == math.inf, 0.0, -math.inf, scores), scores, scores
    )
    return _ops.where(top == -math.inf, 0.0, scores, scores)


def _rest(share: Array) -> Array:
    """1 - P; of the largest the sum of the others."""
    first = _ops.argmax(share)
    others = _ops.row_sum(_ops.replaced_(_ops.copied(share, None), first, 0.0))
    return _ops.replaced_(1 - share, first, others)
