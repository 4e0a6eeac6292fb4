"""Clipping: of all updates by one norm, of each leaf, each unit, each example or each entry; and the norm itself.

Norms are safe from overflow and underflow: they are carried as a scale times a ratio wherever a plain sum of squares,
or the norm, would leave the range of the dtype. The algebra, and why clipping accelerates, is in
``docs/derivations/clipping.md``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from zlpr import _array, _ops, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered

Mode: TypeAlias = Literal["hard", "soft"]

_FAR = 2.0**-100  # factors below it are split in two, so that neither is subnormal, whatever the dtype


class _Norm(NamedTuple):
    """A norm as `scale` times `ratio`, whose product may overflow: two Python floats, or two arrays.

    Infinite entries give an infinite scale, and count as 1 in the ratio.
    """

    scale: Number
    ratio: Number


@remembered
def clip_by_global_norm(max_norm: float, *, mode: Mode = "hard") -> Transform:
    r"""Scale all updates by one factor so that their common norm stays within `max_norm`.

    .. math:: \text{hard: } \min(1, γ / \|g\|), \qquad \text{soft: } γ / (γ + \|g\|)

    Parameters
    ----------
    max_norm : float
        γ > 0; infinite for no clipping.
    mode : {"hard", "soft"}
        Hard clipping leaves what is within the bound as it is; soft clipping has no kink.

    Returns
    -------
    Transform
        Put first in a `chain`, it clips the gradients; after an optimizer, its steps.

    Raises
    ------
    ValueError
        If `max_norm` is not positive, or the mode is unknown.

    Notes
    -----
    The factor is exactly 1 at a norm of exactly `max_norm`, and for zero updates. Finite updates keep their
    direction however large or small they are, up to the largest numbers of the dtype. Infinite entries give the limit:
    they share the bound, and the others become 0. A nan makes everything nan.

    References
    ----------
    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, arXiv:1211.5063,
    section 3.2; the soft form: Zhang et al., Why gradient clipping accelerates training, arXiv:1905.11881,
    section 2.

    Examples
    --------
    >>> import numpy as np
    >>> clip = clip_by_global_norm(1.0)
    >>> grads = {"w": np.array([3.0]), "b": np.array([4.0])}
    >>> updates, _ = clip.update(grads, clip.init(grads), grads)
    >>> print(updates["w"], updates["b"])
    [0.6] [0.8]
    """
    bound = _positive("max_norm", max_norm)
    _require_mode(mode)

    def measure(updates: Leaves) -> Number:
        return _factor_of(updates, bound, mode)

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return _scaled(g, numbers[0]), slots

    return Transform((Stage(_kept) if bound == math.inf else Stage(kernel, measure=measure),))


@remembered
def clip_by_norm(max_norm: float, *, mode: Mode = "hard") -> Transform:
    r"""Scale the updates of each leaf so that the norm of the leaf stays within `max_norm`.

    Parameters
    ----------
    max_norm : float
        γ > 0; infinite for no clipping.
    mode : {"hard", "soft"}
        As in `clip_by_global_norm`, whose notes hold for each leaf.

    Returns
    -------
    Transform
        It changes the direction of the updates as a whole, not that of a leaf.

    Raises
    ------
    ValueError
        If `max_norm` is not positive, or the mode is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> clip = clip_by_norm(1.0)
    >>> grads = {"w": np.array([3.0, 4.0]), "b": np.array([0.5])}
    >>> clip.update(grads, clip.init(grads), grads)[0]
    {'w': array([0.6, 0.8]), 'b': array([0.5])}
    """
    bound = _positive("max_norm", max_norm)
    _require_mode(mode)

    def leafwise(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Sequence[Array], NoSlots]:
        factor = _factor_of([g], bound, mode)
        near, far = (factor, 1.0) if isinstance(factor, float) else (factor[0], factor[1])
        return _like(p, near, far), slots

    return Transform((Stage(_kept) if bound == math.inf else Stage(_scale_blocks, leafwise=leafwise),))


@remembered
def adaptive_clip(
    clipping: float = 0.01, *, eps: float = 1e-3, axis: int | tuple[int, ...] | None = None
) -> Transform:
    r"""Adaptive gradient clipping: keep the updates of each unit within a part of the norm of its parameters.

    .. math:: g_i \min\Big(1, \frac{λ \max(\|θ_i\|, ε)}{\|g_i\|}\Big) \quad\text{for each unit } i

    Parameters
    ----------
    clipping : float
        λ > 0.
    eps : float
        ε > 0, for the sake of parameters that begin at zero.
    axis : int or tuple of int, optional
        The axes of a leaf over which the norm of a unit is taken. The default is that of optax: all of a vector,
        the first axis of a matrix (as of `zlpr.nn.dense`) or of three axes, all but the last of more axes.
        PyTorch's layers have their units along the first axis: ``axis=1`` for matrices.

    Returns
    -------
    Transform
        To be put before an optimizer.

    Raises
    ------
    ValueError
        If an argument is not positive, or a leaf does not have an axis that was named.

    Notes
    -----
    As safe from overflow and underflow as `clip_by_global_norm`.

    References
    ----------
    Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization,
    arXiv:2102.06171, equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> clip = adaptive_clip(0.5)
    >>> params = np.array([[3.0, 1.0], [4.0, 0.0]])
    >>> print(clip.update(np.array([[6.0, 0.1], [8.0, 0.2]]), clip.init(params), params)[0])
    [[1.5 0.1]
     [2.  0.2]]
    """
    bound, least = _positive("clipping", clipping), _positive("eps", eps)

    def leafwise(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Sequence[Array], NoSlots]:
        xp, axes = _array.namespace(p), _unit_axes(tuple(p.shape), axis)
        with _quiet(p):
            scale, ratio = _row_norms([_units(_computed(p), axes)])
            size = scale * ratio
            within = bound * xp.where(size < least, least, size)
            factors = _factors(_row_norms([_units(_computed(g), axes)]), within, "hard")
        shape = tuple(1 if i in axes else n for i, n in enumerate(p.shape))
        return _like(p, *(xp.reshape(f, shape) for f in factors)), slots

    return Transform((Stage(_scale_blocks, leafwise=leafwise),))


@remembered
def clip_by_value(max_value: float) -> Transform:
    r"""Limit every entry of the updates to :math:`[-γ, γ]`.

    Parameters
    ----------
    max_value : float
        γ > 0.

    Returns
    -------
    Transform
        An elementwise transform; it changes the direction of the updates.

    Raises
    ------
    ValueError
        If `max_value` is not positive.

    Notes
    -----
    Infinite entries become ±γ, nan stays nan.

    Examples
    --------
    >>> import numpy as np
    >>> clip = clip_by_value(1.0)
    >>> grads = np.array([0.5, -3.0, np.inf])
    >>> clip.update(grads, clip.init(grads), grads)[0]
    array([ 0.5, -1. ,  1. ])
    """
    bound = _positive("max_value", max_value)

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return _ops.clip(g, -bound, bound), slots

    return Transform((Stage(kernel),))


def clip_per_example(
    grads: Tree, max_norm: float, *, mode: Mode = "hard", reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tree:
    r"""Clip the gradient of each example by its own norm, over all leaves, then average.

    .. math:: \frac1B \sum_b g_b \min(1, γ / \|g_b\|)

    Parameters
    ----------
    grads : tree of floating arrays
        Gradients with the batch as the first axis of every leaf, ``(B, ...)``.
    max_norm : float
        γ > 0; infinite for no clipping.
    mode : {"hard", "soft"}
        As in `clip_by_global_norm`.
    reduction : {"mean", "sum", "none"}
        What becomes of the B clipped gradients; ``"none"`` keeps them.

    Returns
    -------
    tree of arrays
        The structure of `grads`, without the batch axis unless the reduction is ``"none"``; float32 for half
        precision.

    Raises
    ------
    ValueError
        If the leaves differ in their first axis or have none, `max_norm` is not positive, or an option is unknown.
    TypeError
        If a leaf is no floating array, or the libraries differ.

    Notes
    -----
    No example moves the sum by more than γ: the sensitivity that DP-SGD adds its noise to, and a guard against single
    outliers. Infinite entries and nan are treated as in `clip_by_global_norm`, within their own example. No value is
    read on a device or in a trace.

    References
    ----------
    Abadi et al., Deep learning with differential privacy, arXiv:1607.00133, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> clip_per_example(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0, reduction="sum")
    array([0.9, 1.2])
    """
    bound = _positive("max_norm", max_norm)
    _require_mode(mode)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    leaves, spec = _treewalk.flatten("grads", grads)
    for i, x in enumerate(leaves):
        if x.ndim == 0 or x.shape[0] != leaves[0].shape[0]:
            raise ValueError(
                f"grads must have the batch as the first axis of every leaf, ({_batch(leaves[0])}, ...), but "
                f"{_treewalk.leaf_name('grads', grads, i)} has the shape {tuple(x.shape)}"
            )
    arrays = [_computed(_treewalk.detached(x)) for x in leaves]
    with _quiet(arrays[0]) if arrays else contextlib.nullcontext():
        if arrays and bound < math.inf:
            factors = _factors(_row_norms([_rows(x, x.shape[0]) for x in arrays]), bound, mode)
            arrays = [_scaled_rows(x, factors) for x in arrays]
        if reduction != "none":
            arrays = [_array.namespace(x).sum(x, axis=0) for x in arrays]
        if reduction == "mean":
            arrays = [x / leaves[0].shape[0] for x in arrays]
    return spec.unflatten(arrays)


def global_norm(tree: Tree) -> Array:
    r"""Euclidean norm of all entries of all leaves, :math:`\sqrt{\sum_i x_i^2}`.

    Parameters
    ----------
    tree : tree of floating arrays
        Gradients, for example.

    Returns
    -------
    0-d array
        Of the tree's library and on its device, in the widest compute dtype of its leaves (float32 for half
        precision). A tree without leaves has the norm 0, a NumPy array. Nan if an entry is nan, else
        infinite if one is.

    Raises
    ------
    TypeError
        If a leaf is no floating array, or the libraries differ.
    ValueError
        If the devices differ.

    Notes
    -----
    Right wherever the norm is in the range of the dtype: entries of 1e300 or 1e-300, whose squares are not,
    are scaled first. No value is read on a device or in a trace.

    Examples
    --------
    >>> import numpy as np
    >>> norm = global_norm([np.array([3e200]), np.array([[4e200]])])
    >>> print(f"{norm:.6g}")
    5e+200
    """
    leaves = [_treewalk.detached(x) for x in _treewalk.flatten("tree", tree)[0]]
    if not leaves:
        return np.asarray(0.0)
    with _quiet(leaves[0]):
        norm = _norm(leaves)
        length = norm.scale * norm.ratio
    if _array.is_array(length):
        return length
    first = leaves[0]
    with np.errstate(over="ignore"):
        return _array.namespace(first).asarray(
            length, dtype=_treewalk.wide_dtype(leaves), device=_array.device(first)
        )


# --- factors ------------------------------------------------------------------------------------------------


def _factor_of(leaves: Leaves, bound: float, mode: Mode) -> Number:
    """One factor for all leaves: a float where the host sees that one will do, else an array of two."""
    if not leaves:
        return 1.0
    xp, wide = _array.namespace(leaves[0]), _treewalk.wide_dtype(leaves)
    with _quiet(leaves[0]):
        norm = _norm(leaves)
        if _array.is_array(norm.ratio):
            return xp.stack(_factors(norm, bound, mode))
    near, far = _factors(norm, bound, mode) if norm.ratio else (1.0, 1.0)
    if far == 1.0:
        return float(near)
    near = min(near, float(xp.finfo(wide).max))
    return xp.asarray([near, far], dtype=wide, device=_array.device(leaves[0]))


def _factors(norm: _Norm, bound: Number, mode: Mode) -> tuple[Number, Number]:
    """Two factors whose product is the clipping factor; the second is 1 unless the product is very small.

    For an infinite norm the second is 0, and the first is what an infinite entry becomes.
    """
    scale, ratio = norm
    length = scale * ratio
    if isinstance(bound, float) and not isinstance(length, float):
        limits = _array.namespace(length).finfo(length.dtype)  # a bound outside its range is its end
        bound = min(max(bound, float(limits.smallest_normal)), float(limits.max))
    if mode == "hard":
        factor, near = _choose(length <= bound, 1.0, bound / length), bound / ratio
    else:
        factor, near = 1.0 / (1.0 + length / bound), bound / (bound / scale + ratio)
    split = (length == math.inf) | (factor < _FAR)
    return _choose(split, near, factor), _choose(split, 1.0 / scale, 1.0)


def _choose(condition: Any, x: Number, y: Number) -> Number:
    """``where`` for Python numbers and for arrays, of which one of the two is."""
    if isinstance(condition, bool):
        return x if condition else y
    return _array.namespace(condition).where(condition, x, y)


def _scaled(g: Array, factor: Number) -> Array:
    """Multiply by what `_factor_of` returned."""
    if isinstance(factor, float):
        return g if factor == 1.0 else g * factor
    return _scaled_by(g, factor[0], factor[1])


def _scaled_by(g: Array, near: Array, far: Array) -> Array:
    xp = _array.namespace(g)
    # Not `sign`, with which CuPy waits for the device.
    signs = xp.where(g == math.inf, 1.0, xp.where(g == -math.inf, -1.0, g))
    return xp.where(xp.isinf(g), signs, signs * far) * near


def _scale_blocks(
    g: Array, p: Array, factors: Sequence[Array], numbers: Numbers
) -> tuple[Array, Sequence[Array]]:
    near, far = factors
    if _array.place(g) == "host" and float(_array.namespace(far).min(far)) > 0.0:  # the norm is finite
        u = g * far
        u *= near
        return u, ()
    return _scaled_by(g, near, far), ()


def _like(p: Array, *factors: Number) -> tuple[Array, ...]:
    """Factors as arrays in the compute dtype of a parameter."""
    xp, dtype = _array.namespace(p), _array.compute_dtype(p)
    return tuple(
        xp.asarray(f, dtype=dtype, device=_array.device(p))
        if isinstance(f, float)
        else _array.as_dtype(f, dtype)
        for f in factors
    )


def _quiet(x: Array) -> AbstractContextManager[Any]:
    """Have NumPy, and what rests on it, not warn of what is meant: a norm may be infinite or zero."""
    return contextlib.nullcontext() if _array.place(x) == "traced" else np.errstate(all="ignore")


def _scaled_rows(x: Array, factors: tuple[Array, Array]) -> Array:
    """Multiply each row (index of the first axis) by its two factors."""
    xp = _array.namespace(x)
    near, far = (xp.reshape(xp.astype(f, x.dtype, copy=False), (-1,) + (1,) * (x.ndim - 1)) for f in factors)
    return _scaled_by(x, near, far)


def _kept(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
    return g, slots


# --- norms --------------------------------------------------------------------------------------------------


def _norm(leaves: Leaves) -> _Norm:
    """Norm of all leaves: two Python floats for host arrays, two 0-d arrays elsewhere."""
    if not leaves:
        return _Norm(1.0, 0.0)
    if _array.place(leaves[0]) == "host":
        return _host_norm(leaves)
    scale, ratio = _row_norms([_rows(x, 1) for x in leaves])
    return _Norm(scale[0], ratio[0])


def _host_norm(leaves: Leaves) -> _Norm:
    parts: list[tuple[float, int]] = []

    def measure_block(x: Array) -> tuple[()]:
        parts.append(_block_norm(x))
        return ()

    _treewalk.walk(measure_block, [leaves])
    if any(math.isnan(fraction) for fraction, _ in parts):
        return _Norm(1.0, math.nan)
    if any(math.isinf(fraction) for fraction, _ in parts):
        return _Norm(math.inf, math.sqrt(_count_infinite(leaves)))
    top = max((exponent for fraction, exponent in parts if fraction), default=0)
    total = math.hypot(*(math.ldexp(fraction, exponent - top) for fraction, exponent in parts))
    limit = (
        2 - math.frexp(_smallest_normal(leaves))[1]
    )  # both the scale and its reciprocal are normal numbers
    shift = min(max(top, -limit), limit)
    return _Norm(math.ldexp(1.0, shift), math.ldexp(total, top - shift))


def _block_norm(x: Array) -> tuple[float, int]:
    """Take one dot product; repeat it with scaled entries only where squares leave the dtype's range.

    The norm comes as fraction and exponent, as from `math.frexp`; a fraction that is 0, infinite or nan is the norm.
    """
    xp = _array.namespace(x)
    x = xp.reshape(_computed(x), (-1,))
    squares = float(x @ x)
    limits = xp.finfo(x.dtype)
    # Squares that underflow are lost; above this bound all of them together are below one unit of the sum.
    least = x.shape[0] * float(limits.smallest_normal) / float(limits.eps)
    if least < squares < math.inf:
        return math.frexp(math.sqrt(squares))
    largest = float(xp.max(xp.abs(x)))
    if not 0.0 < largest < math.inf:
        return largest, 0
    exponent = math.frexp(largest)[1]
    half = exponent // 2  # in two steps, for the power of two itself may be out of range
    x = x * math.ldexp(1.0, -half) * math.ldexp(1.0, half - exponent)
    fraction, shift = math.frexp(math.sqrt(float(x @ x)))
    return fraction, shift + exponent


def _count_infinite(leaves: Leaves) -> int:
    return sum(int(xp.sum(xp.isinf(x))) for x in leaves for xp in [_array.namespace(x)])


def _smallest_normal(leaves: Leaves) -> float:
    return float(_array.namespace(leaves[0]).finfo(_treewalk.wide_dtype(leaves)).smallest_normal)


def _row_norms(arrays: Sequence[Array]) -> _Norm:
    """Norm of each row over several arrays, (R, n), (R, m) ... to (R,).

    Entries are divided by the largest of their row where plain squares would leave the range of the dtype. On the host
    the plain squares are tried first; elsewhere no value is read.
    """
    xp, wide = _array.namespace(arrays[0]), _treewalk.wide_dtype(list(arrays))
    none = xp.zeros((arrays[0].shape[0], 1), dtype=wide, device=_array.device(arrays[0]))
    arrays = [_array.as_dtype(x, wide) for x in arrays if x.shape[1]] or [none]
    limits, width = xp.finfo(wide), sum(x.shape[1] for x in arrays)
    least = width * float(limits.smallest_normal) / float(limits.eps)  # as in _block_norm
    if _array.place(arrays[0]) == "host":
        squares = _sum_of_all([x * x for x in arrays])
        if bool(xp.all((squares > least) & (squares < math.inf))):
            return _Norm(xp.ones_like(squares), xp.sqrt(squares))
    largest = xp.max(xp.stack([xp.max(xp.abs(x), axis=1) for x in arrays]), axis=0)
    least, most = math.sqrt(least), math.sqrt(float(limits.max) / width) / 2.0
    plain = (largest == 0.0) | ((largest > least) & (largest < most))
    # A quarter of a large scale has a reciprocal that is a normal number.
    scale = xp.where(plain, 1.0, xp.where(largest > 1.0, 0.25 * largest, largest))
    return _Norm(scale, xp.sqrt(_sum_of_all([_parts(x, scale[:, None]) ** 2 for x in arrays])))


def _sum_of_all(arrays: Sequence[Array]) -> Array:
    xp = _array.namespace(arrays[0])
    return xp.sum(xp.stack([_sums(x) for x in arrays]), axis=0)


def _parts(x: Array, scale: Array) -> Array:
    """Entries as parts of a scale, which the infinite ones are themselves."""
    xp = _array.namespace(x)
    infinite = xp.isinf(x)
    return xp.where(infinite, 1.0, xp.where(infinite, 0.0, x) / scale)


def _sums(x: Array) -> Array:
    """Sum of each row, (R, n) to (R,), in about sqrt(n) pieces: a library may add one by one."""
    xp, width = _array.namespace(x), x.shape[1]
    piece = 1 << (width.bit_length() // 2)
    pieces = width // piece
    body = xp.reshape(x[:, : pieces * piece], (x.shape[0], pieces, piece))
    total = xp.sum(xp.sum(body, axis=-1), axis=-1)
    return total + xp.sum(x[:, pieces * piece :], axis=-1) if width % piece else total


def _rows(x: Array, n: int) -> Array:
    return _array.namespace(x).reshape(x, (n, math.prod(x.shape) // n if n else 0))


def _unit_axes(shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Axes of a leaf over which the norm of a unit is taken, none of them negative."""
    n = len(shape)
    if axis is None:
        is_vector = sum(size != 1 for size in shape) <= 1
        return tuple(range(n if is_vector else 1 if n <= 3 else n - 1))
    axes = (axis,) if isinstance(axis, int) else axis
    if any(not -n <= a < n for a in axes):
        raise ValueError(f"axis must name axes of every leaf, got {axis!r} and a leaf of the shape {shape}")
    return tuple(a % n for a in axes)


def _units(x: Array, axes: tuple[int, ...]) -> Array:
    """Bring a leaf into the shape (units, entries of one)."""
    kept = [i for i in range(x.ndim) if i not in axes]
    n = math.prod([x.shape[i] for i in kept])
    return _rows(_array.namespace(x).permute_dims(x, (*kept, *axes)), n)


# --- the boundary -------------------------------------------------------------------------------------------


def _computed(x: Array) -> Array:
    return _array.as_dtype(x, _array.compute_dtype(x))


def _batch(x: Array) -> str:
    return str(x.shape[0]) if x.ndim else "B"


def _positive(name: str, value: float) -> float:
    if not value > 0.0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)  # a NumPy float64 would promote float32 arrays


def _require_mode(mode: str) -> None:
    if mode not in ("hard", "soft"):
        raise ValueError(f"mode must be 'hard' or 'soft', got {mode!r}")
