"""Losses of normal distributions with a mean and a log-variance a dimension: the two halves of a variational bound.

The algebra is in ``docs/derivations/gaussian.md``.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss

__all__ = ["gaussian_kl", "gaussian_nll"]


@row_loss(wrt=("mean", "log_variance"), arrays=("mean", "log_variance"), separable=True, workspace=2.0)
def gaussian_kl(rows: Rows, shares: Array | None) -> tuple[Array, dict[str, Array]]:
    r"""Kullback-Leibler divergence of a diagonal normal distribution from the standard one, in nats.

    .. math::

        \mathrm{KL}\big(N(\mu, \operatorname{diag} e^{\ell}) \,\|\, N(0, I)\big)
            = \tfrac12 \sum_i \mu_i^2 + e^{\ell_i} - 1 - \ell_i

    with means :math:`\mu` and log-variances :math:`\ell`.

    Parameters
    ----------
    mean, log_variance : (..., D) arrays
        float16, bfloat16, float32 or float64, of one shape. Both differentiable.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., D) bool array, optional
        True where the dimension counts.
    axis : int, default -1
        The axis of the dimensions.

    Returns
    -------
    divergence : array
        0-d, or (...) for ``reduction="none"``; nats, summed over the dimensions.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the first, or of a wrong dtype.
    ValueError
        If shapes or devices differ.

    Notes
    -----
    The gradients are :math:`\mu` and :math:`(e^{\ell} - 1) / 2`. Near log-variance 0 the value is of second order,
    and is summed as such: ``exp(l) - 1 - l`` itself is 0 at 1e-4 in float32. A log-variance of ``-inf`` or ``inf``
    gives ``inf``. The Hessian is that with respect to the mean.

    References
    ----------
    .. [1] D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", arXiv:1312.6114, 2013, appendix B.
    .. [2] J. Su, Scientific Spaces, posts 5253 and 7725 (the geometry of the VAE).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import gaussian_kl
    >>> value, (dmean, dlog) = gaussian_kl.value_and_grad(np.ones((1, 2)), np.zeros((1, 2)), argnums=(0, 1))
    >>> value, dmean, dlog
    (np.float64(1.0), array([[1., 1.]]), array([[0., 0.]]))
    """
    mean, (log_variance,) = rows.scores, rows.labels
    growth, beyond = exp_beyond_line(log_variance, rows.lies_within(math.inf, log_variance))
    values = _ops.row_sum(rows.counted(_ops.multiply_(_ops.add_(mean * mean, beyond), 0.5)))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "mean" in rows.needs:
        gradients["mean"] = rows.counted(mean) * shares[:, None]
    if "log_variance" in rows.needs:
        gradients["log_variance"] = _ops.multiply_(rows.counted(growth), 0.5 * shares[:, None])
    return values, gradients


@gaussian_kl.diagonal
def _kl_diagonal(rows: Rows) -> Array:
    """1 in every dimension."""
    return rows.counted(_array.namespace(rows.scores).ones_like(rows.scores))


@row_loss(wrt=("x", "mean", "log_variance"), arrays=("x", "mean", "log_variance"), separable=True)
def gaussian_nll(rows: Rows, shares: Array | None) -> tuple[Array, dict[str, Array]]:
    r"""Negative log-density of a diagonal normal distribution, in nats.

    .. math::

        -\log N(x; \mu, \operatorname{diag} e^{\ell})
            = \tfrac12 \sum_i \log 2\pi + \ell_i + (x_i - \mu_i)^2 e^{-\ell_i}

    with observations :math:`x`, means :math:`\mu` and log-variances :math:`\ell`.

    Parameters
    ----------
    x, mean, log_variance : (..., D) arrays
        float16, bfloat16, float32 or float64, of one shape. All differentiable.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., D) bool array, optional
        True where the dimension counts.
    axis : int, default -1
        The axis of the dimensions.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats, summed over the dimensions. A density may exceed 1, so the
        loss may be negative.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the first, or of a wrong dtype.
    ValueError
        If shapes or devices differ.

    Notes
    -----
    The constant of the density is included, unlike in losses that serve training alone. Errors are within 4 ulp of
    the largest term of the row. The Hessian is that with respect to the observations.

    References
    ----------
    .. [1] C. M. Bishop, Pattern Recognition and Machine Learning, Springer, 2006, eq. 1.54.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import gaussian_nll
    >>> x, mean, log_variance = np.asarray([[2.0]]), np.asarray([[1.0]]), np.asarray([[0.0]])
    >>> value, slope = gaussian_nll.value_and_grad(x, mean, log_variance)
    >>> round(float(value), 6), slope
    (1.418939, array([[1.]]))
    """
    mean, log_variance = rows.labels
    is_plain = rows.lies_within(0.5 * _ops.log_max(mean), log_variance)
    slope, squared = over_variance(rows.scores, mean, log_variance, is_plain)
    terms = log_variance + squared
    if not rows.lies_within(math.inf, terms):
        terms = _ops.where(squared == math.inf, math.inf, terms, squared)
    terms = _ops.add_(terms, math.log(2 * math.pi))
    values = 0.5 * _ops.row_sum(rows.counted(terms))
    gradients: dict[str, Array] = {}
    if shares is None:
        return values, gradients
    if "log_variance" in rows.needs:
        gradients["log_variance"] = rows.counted(1 - squared) * (0.5 * shares[:, None])
    slope = _ops.multiply_(rows.counted(slope), shares[:, None])
    if "mean" in rows.needs:
        gradients["mean"] = -slope
    if "x" in rows.needs:
        gradients["x"] = slope
    return values, gradients


@gaussian_nll.diagonal
def _nll_diagonal(rows: Rows) -> Array:
    """The inverse variances."""
    return rows.counted(_array.namespace(rows.scores).exp(-rows.labels[1]))


def over_variance(x: Array, mean: Array, log_variance: Array, is_plain: bool = False) -> tuple[Array, Array]:
    """``(x - mean) exp(-l)`` and that times ``x - mean``, where that is finite though a factor is not.

    Both are 0 for no difference at all.
    """
    xp, error, bound = _array.namespace(x), x - mean, 0.9 * _ops.log_max(x)
    if is_plain:
        slope = _ops.multiply_(_ops.exp_(-log_variance), error)
        return slope, error * slope
    is_infinite = xp.abs(error) == math.inf
    error = _ops.where(is_infinite, 0.5 * x - 0.5 * mean, error, x)
    size = _ops.where(is_infinite, 2.0, 1.0, x)
    near = _ops.clip(log_variance, -bound, bound)
    slope = error * xp.exp(-near) * xp.exp(near - log_variance) * size
    slope = _ops.where((error == 0) & xp.isnan(slope), 0.0, slope, x)
    return slope, error * slope * size


def exp_beyond_line(x: Array, is_finite: bool = False) -> tuple[Array, Array]:
    """``exp(x) - 1`` and ``exp(x) - 1 - x``: the latter near 0 by a series, where the difference has no digits left."""
    xp = _array.namespace(x)
    growth = _ops.expm1(x)
    far = growth - x
    if not is_finite:
        far = _ops.where(x == math.inf, math.inf, far, x)
    return growth, _ops.where(xp.abs(x) < 1, _beyond_line_near_0(x), far, x)


def _beyond_line_near_0(x: Array) -> Array:
    """``exp(x) - 1 - x`` for ``|x| <= 1``, as ``(1/2 - t) x² / (1 + (t - 1/2) x)``, t x a polynomial in x²."""
    square = x * x
    first, second, *others = _series(float(_array.namespace(x).finfo(x.dtype).eps))
    tail = _ops.add_(square * first, second)
    for coefficient in others:
        tail = _ops.add_(_ops.multiply_(tail, square), coefficient)
    rest = _ops.add_(_ops.multiply_(tail, x), -0.5)
    quotient = _ops.add_(x * rest, 1.0)
    return _ops.multiply_(square, -rest) / quotient


@functools.cache
def _series(eps: float) -> list[float]:
    """A polynomial for ``((x / 2) coth(x / 2) - 1) / x²``, of x² up to 1: from the series of B_2k / (2k)!."""
    length = 3 + int(
        math.log(16 / eps) / math.log(2 * math.pi)
    )  # the n-th is at most 2 / (2π)^n, all but the second
    shares = [Fraction(1)]
    for n in range(1, length):
        shares.append(-sum((b / math.factorial(n + 1 - j) for j, b in enumerate(shares)), Fraction(0)))
    return _constants.economized(shares[2::2], Fraction(1), eps / 32)
