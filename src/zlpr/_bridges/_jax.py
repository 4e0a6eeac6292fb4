"""Rules as JAX functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import optree
from jax.custom_derivatives import SymbolicZero

from zlpr import _array
from zlpr._array import Array
from zlpr._bridges._structure import Structure, disassembled

if TYPE_CHECKING:
    from zlpr.rules import Rule


def call(rule: Rule, args: tuple[Any, ...], opts: dict[str, Any]) -> Array:
    """The value of a rule, jitted once per set of constants, differentiable in both modes."""
    leaves, structure = disassembled(args, opts)
    split = _dynamic_and_constant(leaves)
    if split is None:
        return rule.forward(args, opts, ())[0]
    return _jax_function(rule, structure, *split)(*(leaves[i] for i in split[0]))


@functools.lru_cache(maxsize=1024)
def _jax_function(
    rule: Rule, structure: Structure, dynamic: tuple[int, ...], constants: tuple[Any, ...]
) -> Callable[..., Array]:
    def call(*arrays: Array) -> Array:
        return rule.forward(*structure.arguments(_merged(dynamic, constants, arrays)), ())[0]

    def call_jvp(arrays: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
        """The tangent by transposing the pullback, which is linear: one definition serves both modes."""
        args, opts = structure.arguments(_merged(dynamic, constants, arrays))
        moving = {i for i, t in zip(dynamic, tangents, strict=True) if not isinstance(t, SymbolicZero)}
        needs = structure.needed(
            rule,
            moving,
            "the derivative with respect to another argument is asked for: wrap it in jax.lax.stop_gradient",
        )
        value, pull = rule.forward(args, opts, needs)
        whole = tuple(
            t if i in moving else jax.numpy.zeros_like(x)
            for i, t, x in zip(dynamic, tangents, arrays, strict=True)
        )
        of_args, of_opts = structure.arguments(_merged(dynamic, constants, whole))
        given = tuple(rule.locate(name, of_args, of_opts) for name in needs)
        pulled = jax.eval_shape(lambda dy: tuple(pull(dy)), value)
        dinputs = jax.tree.map(lambda t, like: t.astype(like.dtype), given, pulled)
        (dvalue,) = jax.linear_transpose(lambda dy: tuple(pull(dy)), value)(dinputs)
        return value, dvalue

    differentiable = jax.custom_jvp(call)
    differentiable.defjvp(call_jvp, symbolic_zeros=True)
    jitted: Callable[..., Array] = jax.jit(differentiable)
    return jitted


def compiled(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """``function(*args)``, jitted once per function, shapes and constants."""
    whole: Any = args
    leaves, tree = optree.tree_flatten(whole)
    split = _dynamic_and_constant(list(leaves))
    if split is None:
        return function(*args)
    return _jitted(function, tree, *split)(*(leaves[i] for i in split[0]))


@functools.lru_cache(maxsize=1024)
def _jitted(
    function: Callable[..., Any], tree: Any, dynamic: tuple[int, ...], constants: tuple[Any, ...]
) -> Callable[..., Any]:
    def call(*arrays: Array) -> Any:
        return function(*optree.tree_unflatten(tree, _merged(dynamic, constants, arrays)))

    jitted: Callable[..., Any] = jax.jit(call)
    return jitted


def _dynamic_and_constant(leaves: list[Any]) -> tuple[tuple[int, ...], tuple[Any, ...]] | None:
    """Positions of the JAX arrays among the leaves, and the other leaves with None at the arrays' places.

    None where an array of another library, or anything else that is no constant, is beside them, which is for the
    rule to refuse.
    """
    dynamic = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array))
    constants = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
    refused = any(_array.is_array(constant) or type(constant).__hash__ is None for constant in constants)
    return None if refused else (dynamic, constants)


def _merged(dynamic: tuple[int, ...], constants: tuple[Any, ...], arrays: tuple[Array, ...]) -> list[Any]:
    leaves = list(constants)
    for i, x in zip(dynamic, arrays, strict=True):
        leaves[i] = x
    return leaves


def gradients(
    rule: Rule, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
) -> tuple[Any, ...]:
    """Gradients of the sum of the value, by ``jit(grad)`` of a plain call."""
    leaves, structure = disassembled(args, opts)
    places = structure.places(rule)
    wanted = [i for name in needs for i in places[name]]

    def total(*arrays: Array) -> Array:
        replaced = _merged(tuple(wanted), tuple(leaves), arrays)
        inner_args, inner_opts = structure.arguments(replaced)
        return jax.numpy.sum(rule(*inner_args, **inner_opts))

    found = jax.jit(jax.grad(total, argnums=tuple(range(len(wanted)))))(*(leaves[i] for i in wanted))
    args, opts = structure.arguments(_merged(tuple(wanted), tuple(leaves), found))
    return tuple(rule.locate(name, args, opts) for name in needs)
