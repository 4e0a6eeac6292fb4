"""Activations: elementwise functions, each with its derivative by hand.

The algebra is in ``docs/derivations/activations.md``. Half precisions are computed in float32.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

from zlpr import _array, _ops, _special, _walk
from zlpr._array import Array
from zlpr.rules import Rule
from zlpr.rules._rule import Pullback

__all__ = ["gelu", "relu", "sigmoid", "softplus", "tanh"]


def _elementwise(function: Callable[..., tuple[Array, Pullback]]) -> Rule:
    """The rule of an elementwise formula: checks, half precisions and quiet limits in one place."""

    @functools.wraps(function)
    def checked(x: Array, **opts: Any) -> tuple[Array, Pullback]:
        _array.require_array("x", x)
        _array.require_real_floating("x", x)
        xp, compute = _array.namespace(x), _array.compute_dtype(x)
        with _walk.quiet(x):
            y, pullback = function(xp.astype(x, compute, copy=False), **opts)

        def checked_pullback(dy: Array) -> Array:
            with _walk.quiet(x):
                return xp.astype(pullback(xp.astype(dy, compute, copy=False)), x.dtype, copy=False)

        return xp.astype(y, x.dtype, copy=False), checked_pullback

    checked.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # what a reader should see
    return Rule(checked, ("x",))


@_elementwise
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


@_elementwise
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


@_elementwise
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


@_elementwise
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


_TANH_CUBIC = 0.044715  # the published constant; post 7309 derives it as the minimax one for the distribution
_SIGMOID_SLOPE = 1.702  # likewise


@_elementwise
def gelu(x: Array, *, approximate: Literal["none", "tanh", "sigmoid"] = "none") -> tuple[Array, Pullback]:
    r"""Gaussian error linear unit, elementwise.

    .. math::

        x\,\Phi(x), \qquad
        x\,\sigma\big(2\sqrt{2/\pi}\,(x + 0.044715 x^3)\big), \qquad
        x\,\sigma(1.702 x)

    Parameters
    ----------
    x : floating array
    approximate : {"none", "tanh", "sigmoid"}, default "none"
        Which of the three forms.

    Returns
    -------
    y : array like x

    Raises
    ------
    TypeError
        If `x` is no array or not real floating.
    ValueError
        If `approximate` is none of the three.

    Notes
    -----
    The exact form keeps its digits for negative x, where the usual ``1 + erf`` has none below -5.5 in float32.

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
        share, density = _special.normal(x)
    elif approximate == "tanh":
        a = math.sqrt(2 / math.pi)
        share, slope = sigmoid.value_and_grad(2 * a * x * (1 + _TANH_CUBIC * x * x))
        density = _times_vanishing(2 * a * (1 + 3 * _TANH_CUBIC * x * x), slope)
    elif approximate == "sigmoid":
        share, slope = sigmoid.value_and_grad(_SIGMOID_SLOPE * x)
        density = slope * _SIGMOID_SLOPE
    else:
        raise ValueError(f'approximate must be "none", "tanh" or "sigmoid", not {approximate!r}')

    def gelu_pullback(dy: Array) -> Array:
        return dy * (share + _times_vanishing(x, density))

    return _times_vanishing(x, share), gelu_pullback


def _times_vanishing(x: Array, weight: Array) -> Array:
    """Product of x and a weight that vanishes faster than x grows: 0, not nan, at infinity."""
    return _ops.where(weight == 0, 0.0, x * weight, x)
