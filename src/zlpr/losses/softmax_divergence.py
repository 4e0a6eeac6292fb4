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
    xp = _array.namespace(p.share)
    values = p.shift + xp.log1p(_ops.row_sum(p.terms) + xp.expm1(-p.shift))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "scores_p" in rows.needs:
        gradients["scores_p"] = _ops.multiply_(p.of_possible(-p.share * p.gap), shares[:, None])
    if "scores_q" in rows.needs:
        gradients["scores_q"] = _ops.multiply_(_difference(p), shares[:, None])
    return values, gradients


@softmax_divergence.diagonal
def _diagonal(rows: Rows) -> Array:
    """``P (1 - P) (1 - c) + P² c``, c the centred difference of the scores."""
    if 0 in rows.scores.shape:
        return rows.scores
    p = _pair(rows)
    gap = p.of_possible(p.gap)
    return p.share * (_rest(p.share) * (1 - gap) + p.share * gap)


@softmax_divergence.product
def _product(rows: Rows, v: Array) -> Array:
    """``P ((1 - c) w + (c P)·w)`` with ``w = v - P·v``."""
    if 0 in rows.scores.shape:
        return rows.scores * v
    p = _pair(rows)
    gap = p.of_possible(p.gap)
    w = v - _ops.row_sum(p.share * v)[:, None]
    return p.share * ((1 - gap) * w + _ops.row_sum(gap * p.share * w)[:, None])


class _Pair(NamedTuple):
    """What value and gradients are made of, each (B, C) but the shift."""

    share: Array
    """P"""
    gap: Array
    """c: q - p less its mean under P, so that KL = log Σ P exp(c)"""
    shift: Array
    """(B,), 0 unless exponentials would overflow"""
    terms: Array
    """P (exp(c) - 1 - c) exp(-shift), of which none is negative"""
    step: Array
    """q - p less that of the likeliest class, to its last digits"""
    ahead: Array
    """q less that of the likeliest class"""
    ahead_low: Array
    """what rounding took off that"""
    whole: Array
    """what exponentials of p were divided by"""
    scores_q: Array
    """q without infinite scores"""
    is_plain: bool
    """whether all scores are known to be far from overflow"""

    def of_possible(self, x: Array) -> Array:
        """0 for classes of probability 0, where that makes a difference."""
        return x if self.is_plain else _ops.where(self.share == 0, 0.0, x, x)


_PLAIN = 1e6


def _pair(rows: Rows) -> _Pair:
    xp, p, q = _array.namespace(rows.scores), rows.scores, rows.labels[0]
    plain = rows.mask is None and rows.lies_within(_PLAIN, p) and rows.lies_within(_PLAIN, q)
    if not plain:
        p, q = _with_finite_top(p, rows.mask), _with_finite_top(q, rows.mask)
    first = _ops.argmax(p)
    distance, low = _ops.exact_difference(p, _ops.chosen(p, first)[:, None], is_finite=plain)
    share, whole = _shares(distance, low)
    start = _ops.chosen(q, first)[:, None]
    ahead, ahead_low = _ops.exact_difference(
        q, _ops.where(start == -math.inf, 0.0, start, q), is_finite=plain
    )
    step, step_low = _ops.exact_difference(ahead, distance, is_finite=plain)
    step = step + (step_low + (ahead_low - low))
    if plain:
        centre = _ops.row_sum(share * step)[:, None]
        gap = step - centre
    else:
        impossible = (q == -math.inf) & (share != 0)
        gap = _ops.where(impossible, 0.0, step, step)
        centre = _ops.row_sum(_ops.where(share == 0, 0.0, share * gap, share))[:, None]
        gap = _ops.where(impossible, -math.inf, gap - centre, gap)
        step = _ops.where(start == -math.inf, math.nan, step, step)  # no class gains on an impossible one
    exponent, lacking = _ops.exact_difference(ahead, centre, is_finite=plain)
    shift = _shift(_ops.row_max(exponent), _ops.log_max(p) - math.log(p.shape[-1] + 1) - 1)
    scaled, lacking = share, lacking + ahead_low
    if not (rows.host and bool(xp.all(shift == 0))):
        exponent, shift_low = _ops.exact_difference(exponent, shift[:, None])
        scaled, lacking = share * xp.exp(-shift)[:, None], lacking + shift_low

    def far(exponent: Array, lacking: Array, whole: Array, share: Array, scaled: Array, gap: Array) -> Array:
        other = _ops.nudged_(xp.exp(exponent), lacking) / whole
        return other - _ops.where(share == 0, 0.0, scaled * (1 + gap), share)

    near = _ops.multiply_(exp_beyond_line(_ops.clip(gap, -math.inf, 1.0))[1], scaled)
    is_far = (gap >= 1) | (share == 0)
    whole = xp.broadcast_to(whole, p.shape)
    terms = _ops.where_few(is_far, far, near, exponent, lacking, whole, share, scaled, gap)
    return _Pair(share, gap, shift, terms, step, ahead, ahead_low, whole, q, plain)


def _shift(largest: Array, limit: float) -> Array:
    """What brings the largest exponent down to the limit; all of it where numbers are too coarse for that."""
    shift = _ops.relu(largest - limit)
    return _array.namespace(shift).where(largest - shift > limit + 0.5, largest, shift)


def _difference(p: _Pair) -> Array:
    """Q - P: from what each class gains on the likeliest, or from the shares where that has fewer digits."""
    xp, q = _array.namespace(p.share), p.scores_q
    other, _ = _shares(*_ops.exact_difference(q, _ops.row_max(q)[:, None], is_finite=p.is_plain))

    def far(ahead: Array, low: Array, whole: Array, share: Array) -> Array:
        return _ops.nudged_(xp.exp(ahead), low) / whole - share

    near = p.share * xp.expm1(_ops.clip(p.step, -math.inf, 1.0))
    is_far = (p.step >= 1) | (p.share == 0)
    gains = _ops.where_few(is_far, far, near, p.ahead, p.ahead_low, p.whole, p.share)
    gain = _ops.row_sum(gains)[:, None]
    is_exact = (gain > -0.5) & (gain < math.inf)
    return xp.where(is_exact, (gains - p.share * gain) / (1 + gain), other - p.share)


def _shares(distance: Array, low: Array) -> tuple[Array, Array]:
    """The softmax of scores less the largest of them, and what the exponentials were divided by."""
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
