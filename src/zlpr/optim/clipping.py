"""Clipping by the global norm, and the norm itself, safe from overflow and underflow.

A norm is scaled by the largest entry where the plain sum of squares would leave the range of the dtype. Hard
and soft clipping, and why clipping accelerates, are derived in ``docs/derivations/optim.md``.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered


@remembered
def clip_by_global_norm(max_norm: float, *, mode: Literal["hard", "soft"] = "hard") -> Transform:
    r"""Scale all updates by one factor so that their common norm stays within `max_norm`.

    .. math:: \text{hard: } \min(1, γ / \|g\|), \qquad \text{soft: } γ / (γ + \|g\|)

    Parameters
    ----------
    max_norm : float
        γ > 0.
    mode : {"hard", "soft"}
        Hard clipping leaves what is within the bound as it is; soft clipping has no kink.

    Returns
    -------
    Transform
        Put first in a `chain`, it clips the gradients; after an optimizer, its steps.

    Raises
    ------
    ValueError
        If `max_norm` is not positive and finite, or the mode is unknown.

    Notes
    -----
    The factor is exactly 1 at a norm of exactly `max_norm`, and for zero updates. Finite updates keep their
    direction however large or small they are. An infinite norm gives the factor 0 and a nan norm the factor
    nan.

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
    if not 0.0 < max_norm < math.inf:
        raise ValueError(f"max_norm must be a positive finite number, got {max_norm!r}")
    bound = float(max_norm)  # a NumPy float64 would promote float32 arrays
    if mode not in ("hard", "soft"):
        raise ValueError(f"mode must be 'hard' or 'soft', got {mode!r}")
    factor = _hard_factor if mode == "hard" else _soft_factor

    def measure(updates: Leaves) -> Number:
        return factor(_norm(updates), bound)

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return g * numbers[0], slots

    return Transform((Stage(kernel, measure=measure),))


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
    norm = _norm(leaves)
    if _array.is_array(norm):
        return norm
    first = leaves[0]
    with np.errstate(over="ignore"):
        return _array.namespace(first).asarray(
            norm, dtype=_treewalk.wide_dtype(leaves), device=_array.device(first)
        )


def _hard_factor(norm: Number, max_norm: float) -> Number:
    # Dividing by the bound itself where the norm is within it makes the factor exactly 1; nan stays nan.
    if _array.is_array(norm):
        return max_norm / _array.namespace(norm).where(norm <= max_norm, max_norm, norm)
    return 1.0 if norm <= max_norm else max_norm / norm


def _soft_factor(norm: Number, max_norm: float) -> Number:
    return max_norm / (max_norm + norm)


def _norm(leaves: Leaves) -> Number:
    """Norm as a Python float of host arrays, as a 0-d array elsewhere."""
    if not leaves:
        return 0.0
    return _host_norm(leaves) if _array.place(leaves[0]) == "host" else _scaled_norm(leaves)


def _host_norm(leaves: Leaves) -> float:
    norms: list[float] = []

    def measure_block(x: Array) -> tuple[()]:
        norms.append(_block_norm(x))
        return ()

    _treewalk.walk(measure_block, [leaves])
    # hypot scales by itself, but prefers infinity to nan
    return math.nan if any(map(math.isnan, norms)) else math.hypot(*norms)


def _block_norm(x: Array) -> float:
    """Take one dot product; repeat it with scaled entries only where squares leave the dtype's range."""
    xp = _array.namespace(x)
    x = xp.reshape(xp.astype(x, _array.compute_dtype(x), copy=False), (-1,))
    squares = float(x @ x)
    limits = xp.finfo(x.dtype)
    # Squares that underflow are lost; above this bound all of them together are below one unit of the sum.
    least = x.shape[0] * float(limits.smallest_normal) / float(limits.eps)
    if least < squares < math.inf:
        return math.sqrt(squares)
    largest = float(xp.max(xp.abs(x)))
    if not 0.0 < largest < math.inf:
        return largest
    x = x / largest
    return largest * math.sqrt(float(x @ x))


def _scaled_norm(leaves: Leaves) -> Array:
    """Norm without reading a value: always scaled by the largest entry of all."""
    xp, wide = _array.namespace(leaves[0]), _treewalk.wide_dtype(leaves)
    arrays = [xp.astype(x, wide, copy=False) for x in leaves if math.prod(x.shape)]
    if not arrays:
        return xp.zeros((), dtype=wide, device=_array.device(leaves[0]))
    largest = xp.max(xp.stack([xp.max(xp.abs(x)) for x in arrays]))
    scale = xp.where((largest > 0.0) & (largest < math.inf), largest, 1.0)
    squares = xp.stack([xp.sum((x / scale) ** 2) for x in arrays])
    return scale * xp.sqrt(xp.sum(squares))
