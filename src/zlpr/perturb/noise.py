"""Noise on the input: drawn once by NumPy and moved, so that one seed gives the same on every library.

Nothing here touches a library's global random state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zlpr import _array, _constants
from zlpr._array import Array
from zlpr.nn import dropout, dropout_mask
from zlpr.perturb._samples import Axis, checked_input, polar, sample_axes

__all__ = ["dropout_noise", "gaussian_noise", "random_direction"]


def gaussian_noise(x: Array, scale: float, *, rng: np.random.Generator | int) -> Array:
    r"""Add normal noise to x.

    .. math:: x + \varepsilon, \qquad \varepsilon \sim N(0, \sigma^2 I)

    Parameters
    ----------
    x : floating array
    scale : float
        :math:`\sigma \ge 0`.
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    array like x

    Raises
    ------
    TypeError
        If x is no floating array.
    ValueError
        If `scale` is negative, or a generator is asked for draws in a function that is being compiled.

    Notes
    -----
    The noise is drawn in float64, scaled, rounded once to the dtype of x and added there: the same bits on every
    library. Training with noise is, to second order, training with the penalty
    :math:`\frac{\sigma^2}2 \Delta_x L`; see ``docs/derivations/perturb.md``. A compiled function would draw once, when
    it is compiled: draw outside and hand the noise in.

    References
    ----------
    .. [1] C. M. Bishop, "Training with noise is equivalent to Tikhonov regularization", Neural Computation 7, 1995.
    .. [2] J. Su, Scientific Spaces, post 7466.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import gaussian_noise
    >>> gaussian_noise(np.zeros(3), 0.5, rng=0).round(6)
    array([ 0.062865, -0.066052,  0.320211])
    """
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    if not _constants.is_number(scale) or not scale >= 0:
        raise ValueError(f"scale must be a number of at least 0, got {scale!r}")
    if not scale:
        return x
    return x + _drawn(x, rng, scale)


def dropout_noise(x: Array, rate: float, *, rng: np.random.Generator | int) -> Array:
    r"""Multiply x by noise that is 0 with the probability `rate`, and :math:`1 / (1 - \text{rate})` otherwise.

    Parameters
    ----------
    x : floating array
    rate : float
        In [0, 1).
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    array like x
        Its mean is x.

    Raises
    ------
    TypeError
        If x is no floating array.
    ValueError
        If `rate` is not in [0, 1), or a generator is asked for draws in a function that is being compiled.

    Notes
    -----
    `zlpr.nn.dropout` with a mask of `zlpr.nn.dropout_mask`, which a network that needs a gradient takes in two steps.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout", Journal of Machine Learning Research 15, 2014, section 10.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import dropout_noise
    >>> dropout_noise(np.ones(4), 0.5, rng=0)
    array([2., 0., 0., 0.])
    """
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    _require_draws_outside(x, rng)
    return dropout(x, dropout_mask(x.shape, x, rate=rate, rng=rng))


def random_direction(x: Array, *, rng: np.random.Generator | int, axis: Axis = None) -> Array:
    r"""Draw a direction for every sample, evenly distributed over the unit sphere.

    .. math:: u = \eta / \|\eta\|, \qquad \eta \sim N(0, I)

    Parameters
    ----------
    x : floating array
        The samples; only shape, dtype, library and device count.
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.
    axis : int or tuple of int, optional
        The axes of one sample: all but the first, or all of a vector, by default.

    Returns
    -------
    array like x
        The start of `virtual_adversarial` where that is compiled, and times :math:`\epsilon` the perturbation of
        random consistency training.

    Raises
    ------
    TypeError
        If x is no floating array.
    ValueError
        If x does not have such an axis, or a generator is asked for draws in a function that is being compiled.

    Notes
    -----
    The same bits on every library: normalised by NumPy, in float64, and rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import random_direction
    >>> u = random_direction(np.zeros((2, 3)), rng=0)
    >>> np.linalg.norm(u, axis=1)
    array([1., 1.])
    """
    x = checked_input(x)
    axes = sample_axes(x, axis)
    _require_draws_outside(x, rng)
    draws = np.random.default_rng(rng).standard_normal(tuple(x.shape))
    return _moved(np.asarray(polar(draws, axes).direction), x)


def _drawn(x: Array, rng: Any, scale: float) -> Array:
    """Normal draws times a scale, like x."""
    _require_draws_outside(x, rng)
    return _moved(np.random.default_rng(rng).standard_normal(tuple(x.shape)) * scale, x)


def _moved(values: np.ndarray[Any, Any], like: Array) -> Array:
    """Values of NumPy like another array, rounded by NumPy; to bfloat16, which it has not, from float32."""
    name = _array.dtype_name(like)
    with np.errstate(over="ignore"):
        rounded = values.astype("float32" if name == "bfloat16" else name)
    return _array.as_dtype(_array.from_numpy(rounded, like), like.dtype)


def _require_draws_outside(x: Array, rng: Any) -> None:
    if _array.is_abstract(x) and isinstance(rng, np.random.Generator):
        raise ValueError(
            "rng must not be a generator in a function that is being compiled, which would draw once and for all: "
            "draw outside, and give the compiled function what was drawn"
        )
