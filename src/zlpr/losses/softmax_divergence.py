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
    p = _pair(rows)
    xp = _array.namespace(p.share)
    values = p.shift + xp.log1p(_ops.row_sum(p.terms) + xp.expm1(-p.shift))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "scores_p" in rows.needs:
        slope = _ops.where(p.share == 0, 0.0, -p.share * p.gap, p.share)
        gradients["scores_p"] = _ops.multiply_(slope, shares[:, None])
    if "scores_q" in rows.needs:
        gradients["scores_q"] = _ops.multiply_(_difference(p, values[:, None]), shares[:, None])
    return values, gradients


@softmax_divergence.diagonal
def _diagonal(rows: Rows) -> Array:
    """``P (1 - P) (1 - c) + P² c``, c the centred difference of the scores."""
    p = _pair(rows)
    gap = _ops.where(p.share == 0, 0.0, p.gap, p.gap)
    return p.share * (_rest(p.share) * (1 - gap) + p.share * gap)


@softmax_divergence.product
def _product(rows: Rows, v: Array) -> Array:
    """``P ((1 - c) w + (c P)·w)`` with ``w = v - P·v``."""
    p = _pair(rows)
    gap = _ops.where(p.share == 0, 0.0, p.gap, p.gap)
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
    centre: Array
    """(B, 1), the mean under P of what the scores differ by more than those of the likeliest class"""
    scores_q: Array
    """q without infinite scores"""


def _pair(rows: Rows) -> _Pair:
    xp = _array.namespace(rows.scores)
    p, q = (_with_finite_top(s, rows.mask) for s in (rows.scores, rows.labels[0]))
    first = _ops.first_largest(p)
    distance, low = _ops.exact_difference(p, _at(p, first))
    share, whole = _shares(p)
    q_first = _at(q, first)
    ahead, ahead_low = _ops.exact_difference(q, _ops.where(q_first == -math.inf, 0.0, q_first, q))
    step, step_low = _ops.exact_difference(ahead, distance)
    gap = step + (step_low + (ahead_low - low))  # q - p less that of the first class, to its last digits
    impossible = (q == -math.inf) & (share != 0)
    gap = _ops.where(impossible, 0.0, gap, gap)
    centre = _ops.row_sum(_ops.where(share == 0, 0.0, share * gap, share))[:, None]
    gap = _ops.where(impossible, -math.inf, gap - centre, gap)
    exponent, exponent_low = _ops.exact_difference(ahead, centre)
    shift = _ops.relu(_ops.row_max(exponent) - (_ops.log_max(p) - math.log(p.shape[-1] + 1) - 1))
    exponent, shift_low = _ops.exact_difference(exponent, shift[:, None])
    other = _ops.nudged_(xp.exp(exponent), exponent_low + shift_low + ahead_low) / whole
    scaled = share * xp.exp(-shift)[:, None]
    small = _ops.where(gap < 1, gap, 0.0, gap)
    near = scaled * exp_beyond_line(small)[1]
    far = other - _ops.where(share == 0, 0.0, scaled * (1 + gap), share)
    terms = xp.where((gap < 1) & (share != 0), near, far)
    return _Pair(share, gap, shift, terms, centre, q)


def _difference(p: _Pair, values: Array) -> Array:
    """Q - P: from the difference of the scores, or of the shares, whichever has the smaller rounding errors."""
    xp, other = _array.namespace(p.share), _shares(p.scores_q)[0]
    rest, other_rest = _rest(p.share), _rest(other)
    is_near = xp.abs(p.gap) + xp.abs(p.centre) + values < rest + other_rest
    near = p.share * xp.expm1(_ops.where(is_near, p.gap - values, 0.0, p.gap))
    far = xp.where(p.share > 0.5, rest - other_rest, other - p.share)
    return xp.where(is_near, near, far)


def _shares(scores: Array) -> tuple[Array, Array]:
    """The softmax of finite scores, and what the exponentials were divided by."""
    distance, low = _ops.exact_difference(scores, _ops.row_max(scores)[:, None])
    exps = _ops.nudged_(_array.namespace(scores).exp(distance), low)
    whole = _ops.row_sum(exps)[:, None]
    return exps / whole, whole


def _at(scores: Array, first: Array) -> Array:
    return _ops.row_sum(_ops.where(first, scores, 0.0, scores))[:, None]


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
    first = _ops.first_largest(share)
    others = _ops.row_sum(_ops.where(first, 0.0, share, share))[:, None]
    return _ops.where(first, others, 1 - share, share)
