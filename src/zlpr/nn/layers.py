"""The layers: an affine map, batch normalisation and dropout.

The algebra is in ``docs/derivations/layers.md``. Half precisions are computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.rules import rule
from zlpr.rules._rule import Pullback

__all__ = ["batch_norm", "dense", "dropout", "dropout_mask"]


@rule(wrt=("params", "x"))
def dense(params: dict[str, Array], x: Array, *, needs: tuple[str, ...] = ()) -> tuple[Array, Pullback]:
    r"""Affine map of the rows of x.

    .. math:: y = x W + b

    Parameters
    ----------
    params : dict
        ``weight`` of shape (d_in, d_out) and ``bias`` of shape (d_out,), floating.
    x : (n, d_in) floating array
    needs : tuple of str
        Which gradients are wanted, given by the rule's own machinery.

    Returns
    -------
    y : (n, d_out) array

    Raises
    ------
    TypeError
        If `x` is no array, not real floating, or of another library than the weight.
    ValueError
        If the width of `x` is not that of the weight.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, MIT Press, 2016, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dense
    >>> params = {"weight": np.asarray([[1.0], [2.0]]), "bias": np.asarray([0.5])}
    >>> dense(params, np.asarray([[1.0, 1.0]]))
    array([[3.5]])
    """
    weight, bias = params["weight"], params["bias"]
    _check_dense(x, weight, bias)
    xp, compute = _array.namespace(x), _array.compute_dtype(x)
    wide_x, wide_weight, wide_bias = (xp.astype(v, compute, copy=False) for v in (x, weight, bias))

    def dense_pullback(dy: Array) -> tuple[Any, ...]:
        dy = xp.astype(dy, compute, copy=False)
        gradients = []
        if "params" in needs:
            dweight, dbias = xp.matmul(wide_x.T, dy), xp.sum(dy, axis=0)
            gradients.append(
                {
                    "weight": xp.astype(dweight, weight.dtype, copy=False),
                    "bias": xp.astype(dbias, bias.dtype, copy=False),
                }
            )
        if "x" in needs:
            gradients.append(xp.astype(xp.matmul(dy, wide_weight.T), x.dtype, copy=False))
        return tuple(gradients)

    y = _ops.add_(xp.matmul(wide_x, wide_weight), wide_bias)
    return xp.astype(y, x.dtype, copy=False), dense_pullback


def _check_dense(x: Array, weight: Array, bias: Array) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        _array.require_array(name, value)
        _array.require_real_floating(name, value)
    _array.require_same_home("x", x, "weight", weight)
    _array.require_same_home("x", x, "bias", bias)
    if x.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(f"x must have shape (n, {weight.shape[0]}) for this weight, not {tuple(x.shape)}")
    if tuple(bias.shape) != (weight.shape[1],):
        raise ValueError(
            f"bias must have shape ({weight.shape[1]},) for this weight, not {tuple(bias.shape)}"
        )


_STATISTICS = ("mean", "variance")
_AFFINE = ("scale", "shift")


@rule(wrt=("params", "x"))
def batch_norm(
    params: dict[str, Array], x: Array, *, epsilon: float = 1e-5, needs: tuple[str, ...] = ()
) -> tuple[Array, Pullback]:
    r"""Batch normalisation of the columns of x.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta

    Parameters
    ----------
    params : dict
        ``scale`` :math:`\gamma` and ``shift`` :math:`\beta`, of shape (d,), both or neither: without them the map is
        not affine. ``mean`` :math:`\mu` and ``variance`` :math:`v`, of shape (d,), both or neither: without them those
        of the batch are taken, and the gradient goes through them. `with_statistics` fills them in after training.
    x : (n, d) floating array
    epsilon : float, default 1e-5
        Added to the variance.
    needs : tuple of str
        Which gradients are wanted, given by the rule's own machinery.

    Returns
    -------
    y : (n, d) array

    Raises
    ------
    TypeError
        If an array is none, not real floating, or of another library than `x`.
    ValueError
        If a shape does not fit, one of a pair is missing, `epsilon` is not positive, or there is no row to take
        statistics of.

    Notes
    -----
    The variance divides by n. A constant column, such as a batch of one row has, gives the shift, exactly, and no
    gradient to x: the column is centred twice, since the mean of equal numbers may be rounded. Infinite entries make
    their column nan under batch statistics.

    References
    ----------
    .. [1] S. Ioffe, C. Szegedy, "Batch Normalization", ICML 2015, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import batch_norm
    >>> batch_norm({}, np.asarray([[1.0], [3.0]]), epsilon=3.0)
    array([[-0.5],
           [ 0.5]])
    """
    _check_batch_norm(params, x, epsilon)
    xp, compute = _array.namespace(x), _array.compute_dtype(x)
    wide = {name: xp.astype(value, compute, copy=False) for name, value in params.items()}
    with _walk.quiet(x):
        wide_x = xp.astype(x, compute, copy=False)
        centred, variance = _centred(wide_x, wide)
        inverse = 1.0 / xp.sqrt(variance + epsilon)
        normal = centred * inverse
        y = normal * wide["scale"] + wide["shift"] if "scale" in wide else normal

    def batch_norm_pullback(dy: Array) -> tuple[Any, ...]:
        with _walk.quiet(x):
            dy = xp.astype(dy, compute, copy=False)
            along = _column_sum(dy * normal)
            total = _column_sum(dy)
            factor = wide["scale"] * inverse if "scale" in wide else inverse
            slopes = {"scale": along, "shift": total}
            if "mean" in wide:
                slopes |= {"mean": -total * factor, "variance": -0.5 * along * factor * inverse}
                dx = dy * factor
            else:
                n = x.shape[0]
                dx = (dy - total / n - normal * (along / n)) * factor
        every = {
            "params": {name: xp.astype(slopes[name], p.dtype, copy=False) for name, p in params.items()},
            "x": xp.astype(dx, x.dtype, copy=False),
        }
        return tuple(every[name] for name in needs)

    return xp.astype(y, x.dtype, copy=False), batch_norm_pullback


def statistics_of(x: Array) -> dict[str, Array]:
    """Mean and variance of the columns of x, in its dtype."""
    _check_batch_norm({}, x, epsilon=1.0)
    xp = _array.namespace(x)
    wide = xp.astype(x, _array.compute_dtype(x), copy=False)
    with _walk.quiet(x):
        centred, variance = _centred(wide, {})
        mean = _column_sum(wide - centred) / x.shape[0]
    return {
        "mean": xp.astype(mean, x.dtype, copy=False),
        "variance": xp.astype(variance, x.dtype, copy=False),
    }


def _centred(x: Array, params: dict[str, Array]) -> tuple[Array, Array]:
    """Entries less the mean of their column, and the variances."""
    if "mean" in params:
        return x - params["mean"], params["variance"]
    n = x.shape[0]
    once = x - _column_sum(x) / n
    centred = once - _column_sum(once) / n
    return centred, _column_sum(centred * centred) / n


def _column_sum(x: Array) -> Array:
    """Sums along the first axis, (n, d) to (d,), to a few ulp however many rows."""
    return _ops.row_sum(x.T)


def _check_batch_norm(params: dict[str, Array], x: Array, epsilon: float) -> None:
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d), not {tuple(x.shape)}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}")
    known = (*_AFFINE, *_STATISTICS)
    if unknown := [name for name in params if name not in known]:
        raise ValueError(f"params may have {', '.join(known)}, not {', '.join(map(str, unknown))}")
    for pair in (_AFFINE, _STATISTICS):
        if (pair[0] in params) != (pair[1] in params):
            raise ValueError(f"params must have both {pair[0]} and {pair[1]} or neither")
    for name, value in params.items():
        _array.require_array(name, value)
        _array.require_real_floating(name, value)
        _array.require_same_home("x", x, name, value)
        if tuple(value.shape) != (x.shape[1],):
            raise ValueError(f"{name} must have shape ({x.shape[1]},) for this x, not {tuple(value.shape)}")
    if "mean" not in params and not x.shape[0]:
        raise ValueError("x must have a row at least where its own statistics are taken")


@rule(wrt=("x",))
def dropout(x: Array, mask: Array | None = None) -> tuple[Array, Pullback]:
    r"""Dropout with a mask that was drawn before.

    .. math:: y = m \circ x

    Parameters
    ----------
    x : floating array
    mask : floating array like x, optional
        0 where an entry is dropped, :math:`1 / (1 - \text{rate})` elsewhere, as `dropout_mask` draws it. Without one
        nothing is dropped, as after training.

    Returns
    -------
    y : array like x

    Raises
    ------
    TypeError
        If an array is none, not real floating, or of another library than `x`.
    ValueError
        If the mask has another shape.

    Notes
    -----
    A rule draws nothing itself: its gradient may run it again, and a compiler may run it once for many calls. A
    dropped entry is 0 whatever it was.

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout", Journal of Machine Learning Research 15, 2014, section 10 (inverted form).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dropout
    >>> dropout(np.asarray([1.0, 2.0]), np.asarray([0.0, 2.0]))
    array([0., 4.])
    """
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    if mask is None:
        return x, lambda dy: dy
    _check_mask(mask, x)
    xp, compute = _array.namespace(x), _array.compute_dtype(x)
    wide_mask = xp.astype(mask, compute, copy=False)

    def kept(values: Array) -> Array:
        wide = xp.astype(values, compute, copy=False)
        with _walk.quiet(x):
            scaled = _ops.where(wide_mask == 0, 0.0, wide * wide_mask, wide)
            return xp.astype(scaled, x.dtype, copy=False)

    def dropout_pullback(dy: Array) -> Array:
        return kept(dy)

    return kept(x), dropout_pullback


def _check_mask(mask: Array, x: Array) -> None:
    _array.require_array("mask", mask)
    _array.require_real_floating("mask", mask)
    _array.require_same_home("x", x, "mask", mask)
    if tuple(mask.shape) != tuple(x.shape):
        raise ValueError(f"mask must have the shape of x, {tuple(x.shape)}, not {tuple(mask.shape)}")


def dropout_mask(shape: Sequence[int], like: Array, *, rate: float, rng: np.random.Generator | int) -> Array:
    r"""Draw a mask for `dropout`: 0 with the probability `rate`, :math:`1 / (1 - \text{rate})` otherwise.

    Drawn by NumPy and moved, so that one seed gives the same mask on every library.

    Parameters
    ----------
    shape : sequence of int
    like : floating array
        Library, device and dtype of the mask; float32 for half precisions, which would round the factor.
    rate : float
        In [0, 1).
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    array of that shape

    Raises
    ------
    ValueError
        If `rate` is not in [0, 1).

    References
    ----------
    .. [1] N. Srivastava et al., "Dropout", Journal of Machine Learning Research 15, 2014, section 10.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dropout_mask
    >>> dropout_mask((4,), np.zeros(1), rate=0.5, rng=0)
    array([2., 0., 0., 0.])
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate!r}")
    kept = np.random.default_rng(rng).random(tuple(shape)) >= rate
    moved = _array.from_numpy(np.where(kept, 1 / (1 - rate), 0.0), like)
    return _array.namespace(like).astype(moved, _array.compute_dtype(like))
