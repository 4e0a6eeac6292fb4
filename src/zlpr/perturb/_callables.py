"""The user's callables: how they are called, and what they must give back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import optree

from zlpr import _array, _ops
from zlpr._array import Array

Gradients: TypeAlias = Any
"""``dx``, or a pair ``(dparams, dx)`` whose first is any tree of arrays."""

ValueAndGrad: TypeAlias = Callable[[Array], tuple[Any, Gradients]]
"""``x -> (value, gradients)``."""

ForwardVjp: TypeAlias = Callable[[Array], tuple[Array, Callable[[Array], Gradients]]]
"""``x -> (scores, pullback)``, ``pullback(dscores) -> gradients``."""


def evaluated(value_and_grad: ValueAndGrad, x: Array) -> tuple[Any, Gradients, Array]:
    """The value, all gradients as they came, and that of x, a constant."""
    result = value_and_grad(_array.detached(x))  # whose flags a callable may set, as PyTorch's users do
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"value_and_grad must return a pair (value, gradients), not {type(result).__name__}")
    value, gradients = result
    return value, gradients, of_input("value_and_grad", gradients, x)


def of_input(name: str, gradients: Gradients, x: Array) -> Array:
    """The gradient of x among those of a callable, as a constant; raises unless it is like x."""
    dx = gradients
    if isinstance(gradients, tuple | list):
        if len(gradients) not in (1, 2):
            raise TypeError(f"{name} must give dx or (dparams, dx), not {len(gradients)} gradients")
        dx = gradients[-1]
    if not _array.is_array(dx) or _array.library(dx) != _array.library(x):
        raise TypeError(
            f"{name} must give dx as a {_array.library(x)} array like x, not {type(dx).__module__}.{type(dx).__name__}"
        )
    if tuple(dx.shape) != tuple(x.shape):
        raise ValueError(f"{name} must give dx of the shape of x, {tuple(x.shape)}, not {tuple(dx.shape)}")
    return _array.detached(dx)


def forward(forward_vjp: ForwardVjp, x: Array) -> tuple[Array, Callable[[Array], Gradients]]:
    """The scores and the pullback, of an x of the callable's own."""
    scores, pullback = forward_vjp(_array.detached(x))
    return scores, pullback


def kept(gradients: Gradients) -> Gradients:
    """A copy, for callables that write their next gradients over these."""
    return optree.tree_map(lambda g: _ops.copied(g, None) if _array.is_array(g) else g, gradients)


def combined(function: Callable[..., Any], *gradients: Gradients) -> Gradients:
    """A function of the leaves of several gradients of one structure."""
    return optree.tree_map(function, *gradients)
