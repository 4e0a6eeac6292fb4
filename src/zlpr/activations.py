"""Activations: elementwise functions, each with its first and second derivative by hand.

The algebra is in ``docs/derivations/activations.md``. Half precisions are computed in float32. Every one has
``f.value_grad_hess(x)`` besides what a rule has.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from zlpr import _array, _ops, _special
from zlpr._array import Array
from zlpr._gelu_fit import GeluFit, fit_gelu
from zlpr.rules import elementwise
from zlpr.rules._rule import Pullback

__all__ = ["GeluFit", "fit_gelu", "gelu", "relu", "sigmoid", "softplus", "tanh"]


@elementwise
def sigmoid(x: Array) -> tuple[Array, Pullback]:
    r"""Logistic function, elementwise.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    x : floating array

    Returns
    -------
    y : array like x
        In [0, 1]; exact to a few ulp in both tails, down to the smallest numbers.

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.

    References
    ----------
    .. [1] C. M. Bishop, Pattern Recognition and Machine Learning, Springer, 2006, eq. 4.59.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import sigmoid
    >>> sigmoid.value_and_grad(np.asarray([0.0]))
    (array([0.5]), array([0.25]))
    """
    xp = _array.namespace(x)
    tail = xp.exp(-xp.abs(x))
    y = _ops.where(x >= 0, 1.0, tail, x) / (1 + tail)

    def sigmoid_pullback(dy: Array) -> Array:
        return dy * (tail / ((1 + tail) * (1 + tail)))

    return y, sigmoid_pullback


@sigmoid.diagonal
def _sigmoid_diagonal(x: Array) -> Array:
    """σ'(x) (σ(-x) - σ(x)), whose difference is -tanh(x / 2)."""
    xp = _array.namespace(x)
    tail = xp.exp(-xp.abs(x))
    size = tail * _ops.expm1(-xp.abs(x)) / ((1 + tail) * (1 + tail) * (1 + tail))
    return _ops.where(x < 0, -size, size, x)


@elementwise
def softplus(x: Array) -> tuple[Array, Pullback]:
    r"""Softplus, elementwise.

    .. math:: \log(1 + e^x)

    Parameters
    ----------
    x : floating array

    Returns
    -------
    y : array like x
        Positive; exact to a few ulp also where it is far below 1.

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.

    References
    ----------
    .. [1] C. Dugas, Y. Bengio, F. Bélisle, C. Nadeau, R. Garcia, "Incorporating Second-Order Functional Knowledge
       for Better Option Pricing", NIPS 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import softplus
    >>> print(softplus(np.asarray([0.0, -50.0])))
    [6.93147181e-01 1.92874985e-22]
    """
    xp = _array.namespace(x)
    y = _ops.relu(x) + xp.log1p(xp.exp(-xp.abs(x)))

    def softplus_pullback(dy: Array) -> Array:
        return dy * sigmoid(x)

    return y, softplus_pullback


@softplus.diagonal
def _softplus_diagonal(x: Array) -> Array:
    return sigmoid.value_and_grad(x)[1]


@elementwise
def tanh(x: Array) -> tuple[Array, Pullback]:
    r"""Hyperbolic tangent, elementwise.

    .. math:: \tanh(x), \qquad \tanh'(x) = \cosh(x)^{-2}

    Parameters
    ----------
    x : floating array

    Returns
    -------
    y : array like x

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.

    References
    ----------
    .. [1] NIST Digital Library of Mathematical Functions, 4.28.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import tanh
    >>> tanh.value_and_grad(np.asarray([0.0]))
    (array([0.]), array([1.]))
    """
    xp = _array.namespace(x)
    y = xp.tanh(x)

    def tanh_pullback(dy: Array) -> Array:
        tail = xp.exp(-2 * xp.abs(x))
        return dy * (4 * tail / ((1 + tail) * (1 + tail)))

    return y, tanh_pullback


@tanh.diagonal
def _tanh_diagonal(x: Array) -> Array:
    value, slope = tanh.value_and_grad(x)
    return -2 * value * slope


@elementwise
def relu(x: Array) -> tuple[Array, Pullback]:
    r"""Rectifier, elementwise.

    .. math:: \max(x, 0)

    Parameters
    ----------
    x : floating array

    Returns
    -------
    y : array like x
        The derivative at 0 is taken to be 0.

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.

    References
    ----------
    .. [1] V. Nair, G. E. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import relu
    >>> relu.value_and_grad(np.asarray([-1.0, 2.0]))
    (array([0., 2.]), array([0., 1.]))
    """
    xp = _array.namespace(x)

    def relu_pullback(dy: Array) -> Array:
        return dy * xp.astype(x > 0, x.dtype)

    return _ops.relu(x), relu_pullback


@relu.diagonal
def _relu_diagonal(x: Array) -> Array:
    return _array.namespace(x).zeros_like(x)


_Approximation = Literal["none", "tanh", "sigmoid", "minimax"]

_TANH_CUBIC = 0.044715  # the published constant; post 7309 derives it as the minimax one for the distribution
_SIGMOID_SLOPE = 1.702  # likewise
_MINIMAX = (  # python tools/gelu_constants.py
    0.7975078842853995,
    0.04640160523993667,
    -0.00044076904500218485,
)


@elementwise
def gelu(x: Array, *, approximate: _Approximation = "none") -> tuple[Array, Pullback]:
    r"""Gaussian error linear unit, elementwise.

    .. math::

        x\,\Phi(x), \qquad
        x\,\sigma\big(2\sqrt{2/\pi}\,(x + 0.044715 x^3)\big), \qquad
        x\,\sigma(1.702 x), \qquad
        x\,\sigma\big(2a\,(x + b x^3 + c x^5)\big)

    Parameters
    ----------
    x : floating array
    approximate : {"none", "tanh", "sigmoid", "minimax"}, default "none"
        Which of the forms, in this order. The first three are those of the paper and of other libraries.

    Returns
    -------
    y : array like x

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.
    ValueError
        If `approximate` is none of the four.

    Notes
    -----
    The exact form keeps its digits for negative x, where the usual ``1 + erf`` has none below -5.5 in float32.

    The approximations differ from it by up to 4.7e-4 (tanh), 2.0e-2 (sigmoid) and 2.5e-5 (minimax), whose constants are
    ``fit_gelu("quintic", free_slope=True)``. Its argument is continued by its tangent beyond 5.6, where it would
    turn back.

    References
    ----------
    .. [1] D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)", arXiv:1606.08415, 2016.
    .. [2] J. Su, Scientific Spaces, post 7309 (where the two approximations come from).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import gelu
    >>> print(gelu(np.asarray([-8.0, 1.0])))
    [-4.97676846e-15  8.41344746e-01]
    """
    if approximate == "none":
        return _exact_gelu(x)
    v, dv, _ = _argument(x, approximate)
    share, slope = sigmoid.value_and_grad(v)
    density = _times_vanishing(dv, slope)

    def gelu_pullback(dy: Array) -> Array:
        return dy * (share + _times_vanishing(x, density))

    return _times_vanishing(x, share), gelu_pullback


@gelu.diagonal
def _gelu_diagonal(x: Array, *, approximate: _Approximation = "none") -> Array:
    """2 g' + x g'', the density g' being φ, of derivative -xφ, or that of a sigmoid."""
    if approximate == "none":
        root = math.sqrt(2)
        return _times_vanishing((root - x) * (root + x), _special.normal(x)[1])
    v, dv, ddv = _argument(x, approximate)
    _, slope, curvature = sigmoid.value_grad_hess(v)
    bend = _times_vanishing(dv * dv, curvature) + _times_vanishing(ddv, slope)
    return 2 * _times_vanishing(dv, slope) + _times_vanishing(x, bend)


def _exact_gelu(x: Array) -> tuple[Array, Pullback]:
    """``max(x, 0)`` and x times the signed tail, multiplied before the bell can make it vanish."""
    near = _special.near(x)
    bell, tail = _special.normal_factors(near)
    step = _array.namespace(x).astype(x >= 0, x.dtype)
    signed = _ops.multiply_(1.0 - 2.0 * step, tail)

    def exact_gelu_pullback(dy: Array) -> Array:
        slope = _ops.add_(_special.DENSITY_AT_0 * near, signed)
        return _ops.multiply_(_ops.add_(_ops.multiply_(slope, bell), step), dy)

    return _ops.add_(_ops.multiply_(near * signed, bell), _ops.relu(x)), exact_gelu_pullback


def _argument(x: Array, approximate: _Approximation) -> tuple[Array, Any, Any]:
    """The argument of the sigmoid in an approximation, and its two derivatives."""
    if approximate == "sigmoid":
        return _SIGMOID_SLOPE * x, _SIGMOID_SLOPE, 0.0
    if approximate == "tanh":
        twice = 2 * math.sqrt(2 / math.pi)
        square = x * x
        value = twice * x * (1 + _TANH_CUBIC * square)
        return value, twice * (1 + 3 * _TANH_CUBIC * square), 6 * twice * _TANH_CUBIC * x
    if approximate == "minimax":
        return _minimax_argument(x)
    raise ValueError(f'approximate must be "none", "tanh", "sigmoid" or "minimax", not {approximate!r}')


def _minimax_argument(x: Array) -> tuple[Array, Array, Array]:
    """The polynomial up to its inflection point, where it is steepest, and its tangent beyond."""
    half, b, c = _MINIMAX
    twice, end = 2 * half, math.sqrt(-0.3 * b / c)
    inside = _ops.clip(x, -end, end)
    square = inside * inside
    steepest = twice * (1 + end * end * (3 * b + 5 * c * end * end))
    value = twice * inside * (1 + square * (b + c * square)) + steepest * (x - inside)
    slope = twice * (1 + square * (3 * b + 5 * c * square))
    return value, slope, twice * inside * (6 * b + 20 * c * square)


def _times_vanishing(factor: Array | float, weight: Array) -> Array:
    """Product with a weight that vanishes faster than its factor grows: 0, not nan, at infinity."""
    return _ops.where(weight == 0, 0.0, factor * weight, weight)
