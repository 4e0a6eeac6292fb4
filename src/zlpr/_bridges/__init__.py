"""Rules under PyTorch's autograd and JAX's transformations.

The one place on the ground floor that knows these two libraries, reached only when an array of theirs came in. A
plain call of a rule goes through here by itself, so ``.backward()`` and ``jax.grad`` give the hand-derived gradient.
Each library has a module of its own, imported when its first array arrives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from zlpr import _array
from zlpr._array import Array
from zlpr._bridges._structure import disassembled

if TYPE_CHECKING:
    from zlpr.rules import Rule


def find(args: tuple[Any, ...], opts: dict[str, Any]) -> Callable[..., Array] | None:
    """The bridge that a plain call has to cross, if any: ``bridge(rule, args, opts)``."""
    if args and type(args[0]) is np.ndarray:
        return None
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch is None and jax is None:
        return None
    leaves, _ = disassembled(args, opts)
    if (
        torch
        and torch.is_grad_enabled()
        and any(isinstance(x, torch.Tensor) and x.requires_grad for x in leaves)
    ):
        return torch_call
    if jax and any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jax_call
    return None


def torch_call(rule: Rule, args: tuple[Any, ...], opts: dict[str, Any]) -> Array:
    """The value of a rule as a node of PyTorch's graph, whose backward is the rule's pullback."""
    from zlpr._bridges import _torch

    return _torch.call(rule, args, opts)


def jax_call(rule: Rule, args: tuple[Any, ...], opts: dict[str, Any]) -> Array:
    """The value of a rule on JAX arrays: jitted once per set of constants, differentiable in both modes."""
    from zlpr._bridges import _jax

    return _jax.call(rule, args, opts)


def compiled(lead: Array, function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``; where the leading array is JAX's, jitted, once per function, shapes and constants."""
    if type(lead) is np.ndarray or not _array.is_array(lead) or _array.library(lead) != "jax":
        return function(*args)
    from zlpr._bridges import _jax

    return _jax.compiled(function, args)


def transformed_gradients(
    rule: Rule, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
) -> tuple[Any, ...] | None:
    """Gradients of the sum of the value by the library's own autograd or jitted transformation; None if it has none."""
    libraries = {_array.library(leaf) for leaf in disassembled(args, opts)[0] if _array.is_array(leaf)}
    if "torch" in libraries:
        from zlpr._bridges import _torch

        return _torch.gradients(rule, args, opts, needs)
    if "jax" in libraries:
        from zlpr._bridges import _jax

        return _jax.gradients(rule, args, opts, needs)
    return None
