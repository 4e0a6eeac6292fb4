"""The gradient penalty, and its gradient from first-order gradients alone.

The algebra, the choice of the step and the error are in ``docs/derivations/perturb.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.perturb._callables import Gradients, ValueAndGrad, combined, evaluated, kept
from zlpr.perturb._samples import (
    checked_input,
    checked_step,
    polar,
    root_mean_square,
    sample_axes,
    total,
)

__all__ = ["gradient_penalty"]


def gradient_penalty(
    value_and_grad: ValueAndGrad,
    x: Array,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    sample_weight: Array | None = None,
    step: Any = None,
    jvp: Callable[[Array, Array], Gradients] | None = None,
) -> tuple[Array, Gradients]:
    r"""Penalty of the gradient with respect to the input, with its own gradient.

    .. math:: P = \tfrac12 \sum_b w_b \|\nabla_x l_b\|^2, \qquad
        \nabla P = \frac{\nabla L(x + h v) - \nabla L(x - h v)}{2h} + O(h^2), \quad v_b = \nabla_x l_b

    with the losses :math:`l_b` of the samples and :math:`L = \sum_b w_b l_b`, the value of the callable.

    Parameters
    ----------
    value_and_grad : callable
        ``value_and_grad(x) -> (value, dx)``, or ``(value, (dparams, dx))`` as ``jax.value_and_grad(f, argnums=(0, 1))``
        and ``rule.value_and_grad(params, x, argnums=(0, 1))`` give it. Called three times.
    x : floating array
        The first axis is that of the samples; a vector is one sample.
    reduction : {"sum", "mean"}
        How the value combines the losses of the samples; the penalty combines theirs in the same way.
    sample_weight : (n,) array, optional
        The weights that the value gives them, if any; for ``"mean"`` it divides by their sum.
    step : float, optional
        Norm of the largest perturbation :math:`h v_b`; by default the cube root of the machine epsilon times the
        root mean square of x, or times 1 where x is zero.
    jvp : callable, optional
        ``jvp(x, v)``, the exact derivative of the callable's gradients as x moves along `v`, in their structure, as
        `NetworkObjective` has it by itself, and with JAX
        ``lambda x, v: jax.jvp(lambda x: value_and_grad(x)[1], (x,), (v,))[1]``. No difference is taken then.

    Returns
    -------
    penalty : 0-d array
    gradients : tree of arrays
        In the structure of the callable's gradients: with respect to x, or to (parameters, x).

    Raises
    ------
    TypeError
        If x is no floating array, or the callable's gradient is not of its library.
    ValueError
        If shapes differ, or an option is unknown.

    Notes
    -----
    The difference is central: relative error about 1e-10 in float64 and 1e-4 in float32 where the columns of x are of
    one size and about 0. The step is in the scale of all of x, so that one column, or an offset, of 10^4 times the
    others' size costs most of the digits: standardise x first, or give `step` or `jvp`. Half precisions are moved in
    their own dtype, and have a digit or two: give the callable float32. Only the penalty itself can overflow.

    References
    ----------
    .. [1] H. Drucker, Y. LeCun, "Improving generalization performance using double backpropagation", IEEE Transactions
       on Neural Networks 3, 1992.
    .. [2] J. Su, Scientific Spaces, posts 7234 and 7466.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import gradient_penalty

    The loss :math:`w^2 x^2 / 2` has the slope :math:`w^2 x`, and the penalty :math:`w^4 x^2 / 2`:

    >>> w, x = 3.0, np.asarray([[1.0], [2.0]])
    >>> def value_and_grad(x):
    ...     return np.sum((w * x) ** 2) / 2, (np.sum(w * x * x), w * w * x)
    >>> penalty, (dw, dx) = gradient_penalty(value_and_grad, x)
    >>> float(penalty), round(float(dw), 6), dx.ravel().round(6)
    (202.5, 270.0, array([ 81., 162.]))
    """
    x = checked_input(x)
    axes = sample_axes(x, None)
    _, _, dx = evaluated(value_and_grad, x)
    dx = _array.as_dtype(dx, _array.compute_dtype(x))
    weights = _weights(x, reduction, sample_weight)
    with _walk.quiet(x):
        slopes = dx if weights is None else _divided(dx, weights)
        size = polar(slopes, axes)
        halved = 0.5 * (size.scale * size.length) ** 2
        penalty = total(halved if weights is None else halved * weights, tuple(range(x.ndim)))
        penalty = _array.namespace(penalty).reshape(penalty, ())
    jvp = jvp or getattr(value_and_grad, "jvp", None)
    if jvp is not None:
        return penalty, jvp(x, _array.as_dtype(slopes, x.dtype))
    steepness, direction = _largest(slopes, axes)
    step = _default_step(x) if step is None else checked_step("step", step)
    ahead = kept(evaluated(value_and_grad, x + _array.as_dtype(step * direction, x.dtype))[1])
    behind = evaluated(value_and_grad, x - _array.as_dtype(step * direction, x.dtype))[1]
    factor = steepness / (2.0 * step)

    def slope(a: Array, b: Array) -> Array:
        return _array.as_dtype((a - b) * _array.as_dtype(factor, a.dtype), a.dtype)

    return penalty, combined(slope, ahead, behind)


def _weights(x: Array, reduction: str, sample_weight: Array | None) -> Array | None:
    """The weight of each sample in the value, to broadcast against x; None for 1."""
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "sum" or "mean", not {reduction!r}')
    xp, rows = _array.namespace(x), x.shape[0] if x.ndim > 1 else 1
    if sample_weight is None:
        if reduction == "sum" or not rows:
            return None
        return xp.full((1,) * x.ndim, 1.0 / rows, dtype=_array.compute_dtype(x), device=_array.device(x))
    _array.require_array("sample_weight", sample_weight)
    _array.require_same_home("x", x, "sample_weight", sample_weight)
    if tuple(sample_weight.shape) != (rows,):
        raise ValueError(f"sample_weight must have the shape {(rows,)}, not {tuple(sample_weight.shape)}")
    weights = _array.as_dtype(_array.detached(sample_weight), _array.compute_dtype(x))
    if reduction == "mean":
        weights = weights / _ops.row_sum(weights)
    return xp.reshape(weights, (-1,) + (1,) * (x.ndim - 1))


def _divided(dx: Array, weights: Array) -> Array:
    """The gradients of the samples' own losses; 0 for one without weight."""
    absent = weights == 0
    return _ops.where(absent, 0.0, dx / _ops.where(absent, 1.0, weights, weights), dx)


def _largest(slopes: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Norm of the steepest sample's gradient, 0-d, and the gradients divided by it; neither overflows on the way."""
    xp = _array.namespace(slopes)
    if 0 in slopes.shape:
        return xp.zeros((), dtype=slopes.dtype, device=_array.device(slopes)), slopes
    with _walk.quiet(slopes):
        scale = polar(slopes, tuple(range(slopes.ndim))).scale
        parts = slopes / _ops.where(scale == 0, 1.0, scale, scale)
        sizes = polar(parts, axes)
        top = _ops.largest(sizes.scale * sizes.length)
        return xp.reshape(scale, ()) * top, parts / _ops.where(top == 0, 1.0, top, top)


def _default_step(x: Array) -> Array:
    """The cube root of epsilon, of which rounding and truncation are of one size, in the scale of x, 0-d."""
    xp = _array.namespace(x)
    if 0 in x.shape:
        return xp.ones((), dtype=_array.compute_dtype(x), device=_array.device(x))
    typical = xp.reshape(root_mean_square(x, tuple(range(x.ndim))), ())
    return float(xp.finfo(x.dtype).eps) ** (1 / 3) * typical
