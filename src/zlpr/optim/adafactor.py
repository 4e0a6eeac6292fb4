"""AdaFactor: second moments of a matrix from the averages of its rows and its columns.

It keeps n + m numbers for a matrix of n rows and m columns, clips the root mean square of an update, and sizes
its steps by the parameters. Derived in ``docs/derivations/optim.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Tree
from zlpr.optim import _family
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered
from zlpr.optim._family import Momentum, Schedule
from zlpr.optim._stage import Shape

_Axes: TypeAlias = tuple[int, int] | None
"""The axes that a leaf's rows and columns are numbered by; None where it is not factored."""


class FactoredSquares(NamedTuple):
    """What AdaFactor keeps: average squares of rows and columns, or of every entry where there are none."""

    v_row: Tree
    v_col: Tree
    v: Tree


@remembered
def adafactor(
    lr: float | Schedule | None = None,
    *,
    decay_rate: float = 0.8,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    eps: float | None = None,
    eps_scale: float = 1e-3,
    factored: bool = True,
    convention: Literal["paper", "torch", "optax"] = "paper",
) -> Transform:
    r"""AdaFactor.

    .. math:: R \leftarrow R + c_t \big(\operatorname{mean}_j (g^2 + ε_1) - R\big), \quad
        C \leftarrow C + c_t \big(\operatorname{mean}_i (g^2 + ε_1) - C\big), \quad c_t = t^{-a}, \quad
        \hat v_{ij} = R_i C_j / \operatorname{mean} R

    .. math:: u = g / \sqrt{\hat v}, \qquad
        θ \leftarrow θ - α_t \max(ε_2, \operatorname{rms} θ)\, u / \max(1, \operatorname{rms}(u) / d)

    Parameters
    ----------
    lr : float, callable or None
        α, or a schedule of the number of finished steps. None is the relative step :math:`\min(10^{-2}, 1/\sqrt t)`.
        With ``convention="torch"`` the step is :math:`\min(α, 1/\sqrt t)`, and None is 1e-2; with ``"optax"``, None
        is 1.
    decay_rate : float
        a > 0; 0.8 in the paper.
    clipping_threshold : float or None
        d > 0; None for no clipping.
    multiply_by_parameter_scale : bool
        Whether steps are in units of the root mean square of the parameter.
    min_dim_size_to_factor : int or None
        An array whose rows or columns are shorter keeps a moment of every entry. None is 0, and 128 with
        ``convention="optax"``.
    momentum : float
        In [0, 1): decay of an average of the steps; with 0 nothing is kept.
    weight_decay : float
        λ ≥ 0: the step takes -αλθ along, with ``convention="optax"`` -λθ.
    eps : float or None
        ε₁ ≥ 0. None is 1e-30, and with ``convention="torch"``, where it is a floor of the root instead, the rounding
        error of the dtype.
    eps_scale : float
        ε₂ ≥ 0, the least parameter scale.
    factored : bool
        False keeps a moment of every entry.
    convention : {"paper", "torch", "optax"}
        Of an array with more than two axes, the paper's and PyTorch's rows and columns are the last two axes, optax's
        the two longest.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    Entries of zero gradient take no step. The measures take two more passes over the gradients.

    References
    ----------
    Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost, arXiv:1804.04235, algorithms
    4 and 5. Su, https://kexue.fm/archives/7302.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = adafactor(0.1, multiply_by_parameter_scale=False)
    >>> params = np.zeros((2, 2))
    >>> grads = np.array([[1.0, 2.0], [-2.0, 4.0]])  # |g| has rank 1, so that the first step is lr * sign(g)
    >>> params, state = optimizer.step(params, grads, optimizer.init(params))
    >>> print(params.round(12))
    [[-0.1 -0.1]
     [ 0.1 -0.1]]
    >>> print(state.slots[0].v_row.ravel(), state.slots[0].v_col.ravel())
    [ 2.5 10. ] [ 2.5 10. ]
    """
    _family.convention_of(convention, ("paper", "torch", "optax"))
    if not 0.0 < decay_rate < math.inf:
        raise ValueError(f"decay_rate must be a positive finite number, got {decay_rate!r}")
    if clipping_threshold is not None and not 0.0 < clipping_threshold < math.inf:
        raise ValueError(
            f"clipping_threshold must be a positive finite number or None, got {clipping_threshold!r}"
        )
    smallest = (
        (128 if convention == "optax" else 0) if min_dim_size_to_factor is None else min_dim_size_to_factor
    )
    longest = convention == "optax"

    def axes_of(shape: Shape) -> _Axes:
        return _factored_axes(shape, smallest, longest=longest) if factored else None

    rate, step_size = _rates(lr, convention)
    rescale = Stage(
        _rescaled,
        FactoredSquares,
        _coefficients(float(decay_rate), step_size),
        leafwise=_measured(
            axes_of,
            added=0.0
            if convention == "torch"
            else _family.not_negative("eps", 1e-30 if eps is None else eps),
            floor=_floor(eps) if convention == "torch" else lambda g: 0.0,
            threshold=clipping_threshold,
            least_scale=_family.not_negative("eps_scale", eps_scale) if multiply_by_parameter_scale else None,
        ),
        shapes=lambda shape: _slot_shapes(shape, axes_of(shape)),
    )
    decay = _family.not_negative("weight_decay", weight_decay)
    stages = [rescale]
    if momentum != 0.0:
        stages.append(_averaged(_family.fraction("momentum", momentum)))
    if decay != 0.0:
        stages.append(_decayed(decay, rate if convention != "optax" else lambda count: 1.0))
    return Transform(tuple(stages))


def _rates(lr: float | Schedule | None, convention: str) -> tuple[Schedule, Schedule]:
    """Return the learning rate and the step size, functions of the number of finished steps."""

    def relative(bound: Number) -> Callable[[Number], Number]:
        return lambda count: _smaller(1.0 / _family.square_root(_array.as_real(count) + 1), bound)

    if lr is not None:
        rate = _family.learning_rate(lr)
        return rate, (lambda count: relative(rate(count))(count)) if convention == "torch" else rate
    if convention == "optax":
        return (lambda count: 1.0), (lambda count: 1.0)
    step_size = relative(1e-2)
    return (lambda count: 1e-2) if convention == "torch" else step_size, step_size


def _smaller(a: Number, b: Number) -> Number:
    if not _array.is_array(a):
        return min(a, b)
    return _array.namespace(a).where(a < b, a, b)


def _coefficients(exponent: float, step_size: Schedule) -> Callable[[Number], Numbers]:
    weight = _family.power_weight(exponent)
    return lambda count: (weight(_array.as_real(count) + 1), step_size(count))


def _floor(eps: float | None) -> Callable[[Array], float]:
    if eps is not None:
        least = _family.not_negative("eps", eps)
        return lambda g: least
    return lambda g: float(_array.namespace(g).finfo(_array.compute_dtype(g)).eps)


# --- rows and columns ---------------------------------------------------------------------------------------


def _factored_axes(shape: Shape, smallest: int, *, longest: bool) -> _Axes:
    """Axes of the rows and the columns of an array: the last two, or the two longest."""
    if len(shape) < 2:
        return None
    axes = (
        sorted(range(len(shape)), key=shape.__getitem__)[-2:] if longest else [len(shape) - 2, len(shape) - 1]
    )
    return None if min(shape[axis] for axis in axes) < smallest else (axes[0], axes[1])


def _slot_shapes(shape: Shape, axes: _Axes) -> Sequence[Shape | None]:
    if axes is None:
        return None, None, shape
    rows, columns = axes
    return _with_one(shape, columns), _with_one(shape, rows), None


def _with_one(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _measured(
    axes_of: Callable[[Shape], _Axes],
    *,
    added: float,
    floor: Callable[[Array], float],
    threshold: float | None,
    least_scale: float | None,
) -> Callable[[Array, Array, Any, Numbers], tuple[Sequence[Array], Sequence[Array | None]]]:
    """Return what moves the averages of a leaf, and finds the size of its step."""

    def measured(
        g: Array, p: Array, slots: Any, numbers: Numbers
    ) -> tuple[Sequence[Array], Sequence[Array | None]]:
        c, step_size = numbers
        shape, least = tuple(g.shape), floor(p)
        everything = tuple(range(len(shape)))
        axes = axes_of(shape)
        if axes is None:
            v = _moved_to_squares(slots[2], g, c, added)
            first, second, kept = v, _scalar(1.0, v), (None, None, v)
        else:
            first, second, kept = _moved_factors(g, slots, c, axes, added, least)
        dtype = first.dtype
        size = max(math.prod(shape), 1)
        factor = _scalar(step_size, first)
        floor_ = _scalar(least, first)
        if threshold is not None:
            (total,) = _treewalk.sums(
                lambda g, a, b, e: _normalised(_array.as_dtype(g, dtype), a, b, e) ** 2,
                [g, first, second, floor_],
                [everything],
            )
            factor = factor / _at_least(_root_mean(total, size) / threshold, 1.0)
        if least_scale is not None:
            (total,) = _treewalk.sums(lambda p: _array.as_dtype(p, dtype) ** 2, [p], [everything])
            factor = factor * _at_least(_root_mean(total, size), least_scale)
        return (first, second, floor_, factor), kept

    return measured


def _moved_to_squares(v: Array, g: Array, c: Number, added: float) -> Array:
    def body(g: Array, v: Array) -> tuple[Array]:
        squares = _array.as_dtype(g, v.dtype) ** 2
        squares += added
        return (_family.moved(v, squares, c),)

    return _treewalk.walk(body, [[g]], [[v]])[0][0]


def _moved_factors(
    g: Array, slots: Any, c: Number, axes: tuple[int, int], added: float, least: float
) -> tuple[Array, Array, tuple[Array, Array, None]]:
    """Move the averages of rows and columns; return the two factors of the second moment, and the averages."""
    row, column, _ = slots
    rows, columns = axes
    shape, dtype, xp = tuple(g.shape), row.dtype, _array.namespace(g)
    of_rows, of_columns = _treewalk.sums(
        lambda g: _array.as_dtype(g, dtype) ** 2 + added, [g], [columns, rows]
    )
    row = _family.moved(row, _array.as_dtype(of_rows, dtype) / max(shape[columns], 1), c)
    column = _family.moved(column, _array.as_dtype(of_columns, dtype) / max(shape[rows], 1), c)
    mean = xp.sum(row, axis=rows, keepdims=True) / max(shape[rows], 1)
    mean = xp.where(mean < least, least, mean) if least else mean
    # a mean of 0 is one of zeros only, whose entries take no step
    return row / xp.where(mean == 0.0, 1.0, mean), column, (row, column, None)


def _scalar(value: Number, like: Array) -> Array:
    xp = _array.namespace(like)
    if _array.is_array(value):
        return _array.as_dtype(value, like.dtype)
    return xp.asarray(value, dtype=like.dtype, **_array.beside(like))


def _root_mean(total: Array, size: int) -> Array:
    xp = _array.namespace(total)
    return xp.reshape(xp.sqrt(total / size), ())


def _at_least(x: Array, bound: float) -> Array:
    return _array.namespace(x).where(x < bound, bound, x)


# --- the kernels --------------------------------------------------------------------------------------------


def _normalised(g: Array, first: Array, second: Array, floor: Array) -> Array:
    """Divide by the root of the second moment; the two roots are multiplied, because the product may underflow."""
    xp = _array.namespace(g)
    root = xp.sqrt(first) * xp.sqrt(second)
    return _family.quotient(g, xp.maximum(root, floor), may_vanish=True)


def _rescaled(g: Array, p: Array, factors: Sequence[Array], numbers: Numbers) -> tuple[Array, tuple[()]]:
    first, second, floor, factor = factors
    u = _normalised(g, first, second, floor)
    u *= -factor
    return u, ()


def _averaged(momentum: float) -> Stage:
    def kernel(g: Array, p: Array, slots: Momentum, numbers: Numbers) -> tuple[Array, Momentum]:
        m = _family.moved(slots[0], g, 1.0 - momentum)
        return m, Momentum(m)

    return Stage(kernel, Momentum)


def _decayed(decay: float, rate: Schedule) -> Stage:
    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return g - p * numbers[0], slots

    return Stage(kernel, coefficients=lambda count: (decay * rate(count),))
