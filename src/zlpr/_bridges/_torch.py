"""Rules as nodes of PyTorch's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from zlpr._array import Array
from zlpr._bridges._structure import Structure, disassembled, flattened

if TYPE_CHECKING:
    from zlpr.rules import Rule


def call(rule: Rule, args: tuple[Any, ...], opts: dict[str, Any]) -> Array:
    """The value of a rule as a node of the graph, whose backward is the rule's pullback."""
    leaves, structure = disassembled(args, opts)
    active = {i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad}
    needs = structure.needed(rule, active, "another argument requires a gradient: detach it first")
    return RuleFunction.apply(rule, structure, needs, *leaves)


class RuleFunction(torch.autograd.Function):  # type: ignore[misc]  # torch is not typed here
    """Forward: the rule's value. Backward: its pullback, rebuilt from the inputs where a graph is wanted.

    A gradient that is only saved would be a constant to the second derivative, silently.
    """

    @staticmethod
    def forward(ctx: Any, rule: Rule, structure: Structure, needs: tuple[str, ...], *leaves: Any) -> Array:
        args, opts = structure.arguments(leaves)
        ctx.rule, ctx.structure, ctx.needs = rule, structure, needs
        ctx.is_tensor = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        ctx.constants = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        value, gradients, ctx.scale = rule.value_and_saved(args, opts, needs)
        ctx.n_inputs = len(inputs)
        ctx.save_for_backward(*inputs, *gradients)
        return value

    @staticmethod
    def backward(ctx: Any, dvalue: Array) -> tuple[Any, ...]:
        tensors, saved = iter(ctx.saved_tensors[: ctx.n_inputs]), ctx.saved_tensors[ctx.n_inputs :]
        leaves = [
            next(tensors) if is_tensor else constant
            for is_tensor, constant in zip(ctx.is_tensor, ctx.constants, strict=True)
        ]
        if saved and not torch.is_grad_enabled():
            gradients = ctx.scale(saved, dvalue)
        else:
            args, opts = ctx.structure.arguments(leaves)
            gradients = ctx.rule.forward(args, opts, ctx.needs)[1](dvalue)
        places = ctx.structure.places(ctx.rule)
        of_leaf: list[Any] = [None] * len(leaves)
        for name, gradient in zip(ctx.needs, gradients, strict=True):
            for where, part in zip(places[name], flattened(gradient)[0], strict=True):
                of_leaf[where] = part
        return None, None, None, *of_leaf


def gradients(
    rule: Rule, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
) -> tuple[Any, ...]:
    """Gradients of the sum of the value, by a plain call and ``backward``."""
    leaves, structure = disassembled(args, opts)
    leaves = [x.detach() if isinstance(x, torch.Tensor) else x for x in leaves]
    places = structure.places(rule)
    for name in needs:
        for i in places[name]:
            leaves[i] = leaves[i].clone().requires_grad_(True)
    args, opts = structure.arguments(leaves)
    rule(*args, **opts).sum().backward()
    with_grad = [x.grad if isinstance(x, torch.Tensor) and x.requires_grad else x for x in leaves]
    args, opts = structure.arguments(with_grad)
    return tuple(rule.locate(name, args, opts) for name in needs)
