"""Divergence of two diagonal normal distributions that a model gives as means and log-variances.

The algebra is in ``docs/derivations/divergence.md``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr.losses.gaussian import exp_beyond_line, over_variance
from zlpr.rules import Rows, row_loss

__all__ = ["gaussian_divergence"]


@row_loss(wrt=("outputs_p", "outputs_q"), arrays=("outputs_p", "outputs_q"), separable=True, workspace=4.0)
def gaussian_divergence(rows: Rows, shares: Array | None) -> tuple[Array, dict[str, Array]]:
    r"""Kullback-Leibler divergence of two diagonal normal distributions, in nats.

    .. math:: \mathrm{KL}(P \,\|\, Q) = \tfrac12 \sum_i e^{\ell_i - m_i} - 1 - (\ell_i - m_i)
        + (\mu_i - \nu_i)^2 e^{-m_i}

    with the means :math:`\mu, \nu` and the log-variances :math:`\ell, m` of P and of Q.

    Parameters
    ----------
    outputs_p, outputs_q : (..., 2 D) arrays
        D means, and after them D log-variances, as a model has them in its last layer. float16, bfloat16, float32 or
        float64, of one shape. Both differentiable.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., 2 D) bool array, optional
        True where the term counts: that of the difference of the means, and that of the variances.
    axis : int, default -1
        The axis of the outputs.

    Returns
    -------
    divergence : array
        0-d, or (...) for ``reduction="none"``; nats.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the first, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or the number of outputs is odd.

    Notes
    -----
    Where the outputs agree to many digits the value keeps its own. The Hessian is that with respect to the first
    outputs; where both agree it is the Fisher matrix, :math:`e^{-\ell_i}` for a mean and ½ for a log-variance.

    References
    ----------
    .. [1] D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", arXiv:1312.6114, appendix B (Q standard).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import gaussian_divergence
    >>> gaussian_divergence.value_and_grad(np.zeros((1, 2)), np.asarray([[3.0, 0.0]]), argnums=1)
    (np.float64(4.5), array([[ 3. , -4.5]]))
    """
    xp, p = _array.namespace(rows.scores), _parts(rows)
    values = _ops.row_sum(rows.counted(xp.concat([0.5 * p.squared, 0.5 * p.beyond], axis=-1)))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    slopes = rows.counted(xp.concat([p.slope, 0.5 * p.growth], axis=-1))
    if "outputs_p" in rows.needs:
        gradients["outputs_p"] = slopes * shares[:, None]
    if "outputs_q" in rows.needs:
        squared = rows.counted(xp.concat([p.squared, p.squared], axis=-1))[:, : p.squared.shape[-1]]
        of_precision = xp.concat([xp.zeros_like(squared), 0.5 * squared], axis=-1)
        gradients["outputs_q"] = (-slopes - of_precision) * shares[:, None]
    return values, gradients


@gaussian_divergence.diagonal
def _diagonal(rows: Rows) -> Array:
    """The inverse variances of Q, and half the quotients of the variances."""
    xp, p = _array.namespace(rows.scores), _parts(rows)
    return rows.counted(xp.concat([xp.exp(-p.log_variance), 0.5 * p.quotient], axis=-1))


class _Parts(NamedTuple):
    """What value and gradients are made of, each (B, D)."""

    slope: Array
    """difference of the means over the variance of Q"""
    squared: Array
    """that times the difference"""
    growth: Array
    """quotient of the variances less 1"""
    beyond: Array
    """that less the difference of the log-variances"""
    quotient: Array
    """of the variances"""
    log_variance: Array
    """of Q"""


def _parts(rows: Rows) -> _Parts:
    p, q = rows.scores, rows.labels[0]
    half, odd = divmod(p.shape[-1], 2)
    if odd:
        raise ValueError(f"outputs_p must hold as many log-variances as means, but has {p.shape[-1]} outputs")
    wider, low = _ops.exact_difference(p[:, half:], q[:, half:])
    wider = _ops.where(p[:, half:] == q[:, half:], 0.0, wider, wider)
    slope, squared = over_variance(p[:, :half], q[:, :half], q[:, half:])
    growth, beyond = exp_beyond_line(wider)
    quotient = _array.namespace(wider).exp(wider)
    low = _ops.where(quotient == math.inf, 0.0, low, low)
    lost, of_beyond = (_ops.where(low == 0, 0.0, low * rate, low) for rate in (quotient, growth))
    return _Parts(slope, squared, growth + lost, beyond + of_beyond, quotient + lost, q[:, half:])
