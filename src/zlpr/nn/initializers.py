"""Initial parameters: drawn by NumPy and moved, so that one seed gives the same numbers on every library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from zlpr import _array
from zlpr._array import Array

__all__ = ["batch_norm_parameters", "dense_parameters", "glorot", "he"]

_Distribution = Literal["normal", "uniform"]


def he(
    shape: Sequence[int],
    like: Array,
    *,
    distribution: _Distribution = "normal",
    rng: np.random.Generator | int,
) -> Array:
    r"""Weights of variance :math:`2 / d_{in}`, which keep the mean square of what passes rectifiers.

    Parameters
    ----------
    shape : (d_in, d_out)
    like : floating array
        Library, device and dtype of the weights.
    distribution : {"normal", "uniform"}, default "normal"
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    (d_in, d_out) array

    Raises
    ------
    ValueError
        If the shape is not that of a weight, or the distribution is none of the two.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015, eq. 10.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import he
    >>> bool(np.all(np.abs(he((6, 1000), np.zeros(1), distribution="uniform", rng=0)) <= 1.0))  # sqrt(3 * 2 / 6)
    True
    """
    _check_shape(shape)
    return _moved(_drawn(shape, 2 / shape[0], distribution, np.random.default_rng(rng)), like)


def glorot(
    shape: Sequence[int],
    like: Array,
    *,
    distribution: _Distribution = "uniform",
    rng: np.random.Generator | int,
) -> Array:
    r"""Weights of variance :math:`2 / (d_{in} + d_{out})`, between what values and what gradients ask for.

    Parameters
    ----------
    shape : (d_in, d_out)
    like : floating array
        Library, device and dtype of the weights.
    distribution : {"normal", "uniform"}, default "uniform"
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    (d_in, d_out) array

    Raises
    ------
    ValueError
        If the shape is not that of a weight, or the distribution is none of the two.

    References
    ----------
    .. [1] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
       AISTATS 2010, eq. 16.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import glorot
    >>> bool(np.all(np.abs(glorot((4, 2), np.zeros(1), rng=0)) <= 1.0))  # sqrt(6 / (4 + 2))
    True
    """
    _check_shape(shape)
    return _moved(_drawn(shape, 2 / (shape[0] + shape[1]), distribution, np.random.default_rng(rng)), like)


def batch_norm_parameters(width: int, like: Array) -> dict[str, Array]:
    """Scale 1 and shift 0 for an affine `batch_norm`; without affine map its parameters are an empty dict.

    Parameters
    ----------
    width : int
    like : floating array
        Library, device and dtype of the parameters.

    Returns
    -------
    dict
        ``scale`` and ``shift``, (width,) each.

    Raises
    ------
    ValueError
        If the width is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import batch_norm_parameters
    >>> batch_norm_parameters(2, np.zeros(1))
    {'scale': array([1., 1.]), 'shift': array([0., 0.])}
    """
    if width < 1:
        raise ValueError(f"width must be positive, got {width}")
    return {"scale": _moved(np.ones(width), like), "shift": _moved(np.zeros(width), like)}


def dense_parameters(
    sizes: Sequence[int],
    like: Array,
    *,
    gain: float = 1.0,
    initializer: Callable[..., Array] | None = None,
    rng: np.random.Generator | int,
) -> tuple[dict[str, Array], ...]:
    r"""Initial parameters of dense layers: normal weights of variance :math:`g^2 / d_{in}`, biases zero.

    Drawn by NumPy and moved, so that one seed gives the same numbers on every library.

    Parameters
    ----------
    sizes : sequence of int
        Widths of the input, of the hidden layers, and of the output.
    like : floating array
        Library, device and dtype of the parameters.
    gain : float, default 1.0
        :math:`g`; :math:`\sqrt 2` suits rectifiers (He).
    initializer : callable, optional
        ``initializer((d_in, d_out), like, rng=rng)`` draws the weights instead: `he`, `glorot` or one of the user's.
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    tuple of dict
        ``weight`` (d_in, d_out) and ``bias`` (d_out,) of each layer.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is not positive, or if `gain` is given beside an
        `initializer`.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015, eq. 10.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dense_parameters
    >>> [layer["weight"].shape for layer in dense_parameters((4, 3, 2), np.zeros(1), rng=0)]
    [(4, 3), (3, 2)]
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be two or more positive widths, not {tuple(sizes)}")
    if initializer is not None and gain != 1:
        raise ValueError(f"gain must stay 1 where an initializer draws the weights, got {gain!r}")
    rng = np.random.default_rng(rng)
    layers = []
    for inputs, outputs in pairwise(sizes):
        if initializer is None:
            weight = _moved(_drawn((inputs, outputs), gain**2 / inputs, "normal", rng), like)
        else:
            weight = initializer((inputs, outputs), like, rng=rng)
        layers.append({"weight": weight, "bias": _moved(np.zeros(outputs), like)})
    return tuple(layers)


def _check_shape(shape: Sequence[int]) -> None:
    if len(shape) != 2 or any(size < 1 for size in shape):
        raise ValueError(f"shape must be that of a weight, two positive widths, not {tuple(shape)}")


def _drawn(
    shape: Sequence[int], variance: float, distribution: str, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    if distribution == "normal":
        return np.asarray(rng.standard_normal(tuple(shape)) * variance**0.5)
    if distribution == "uniform":
        end = (3 * variance) ** 0.5
        return rng.uniform(-end, end, tuple(shape))
    raise ValueError(f'distribution must be "normal" or "uniform", not {distribution!r}')


def _moved(values: np.ndarray[Any, Any], like: Array) -> Array:
    return _array.namespace(like).astype(_array.from_numpy(values, like), like.dtype)
