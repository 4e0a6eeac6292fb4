"""One call that tests any rule, on the library of its arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import optree

from zlpr import _array, _bridges
from zlpr._array import Array
from zlpr.rules import Rule

_STEP = {"float64": 1e-6, "float32": 1e-2}
_DIFFERENCE_TOLERANCE = {"float64": 1e-7, "float32": 2e-2}  # truncation plus rounding of a central difference
_AGREEMENT = {"float64": 1e-13, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}


class RuleReport(NamedTuple):
    """What `check_rule` measured, each number relative to the size of the gradient.

    Parameters
    ----------
    difference : float
        Distance of the pullback from a central difference along a random direction.
    autograd : float or None
        Distance of the gradient through the library's own autograd or ``jit(grad)``; None where it has neither.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import sigmoid
    >>> from zlpr.validation import check_rule
    >>> check_rule(sigmoid, np.zeros(1)).autograd is None
    True
    """

    difference: float
    autograd: float | None


def check_rule(rule: Rule, *args: Any, **opts: Any) -> RuleReport:
    """Test a rule on the given arguments: value, gradient, dtype, device, autograd or jit, and purity.

    Checked are: value, ``vjp`` and ``value_and_grad`` agree; the pullback is linear, may be called twice, and agrees
    with a central difference in every differentiable input; values and gradients are of the inputs' library, device
    and dtype; PyTorch's autograd or JAX's ``jit(grad)`` of a plain call gives the same gradient; no argument is
    written to.

    Parameters
    ----------
    rule : Rule
    *args, **opts
        Arguments of a call, of any library; where the rule has kinks, away from them.

    Returns
    -------
    RuleReport

    Raises
    ------
    AssertionError
        Naming what failed, by how much, and for which input.

    References
    ----------
    .. [1] The tests of ChainRules.jl, whose ``test_rrule`` this follows.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import softplus
    >>> from zlpr.validation import check_rule
    >>> check_rule(softplus, np.linspace(-3.0, 3.0, 7)).difference < 1e-7
    True
    """
    before = [_array.to_numpy(x).copy() for x in _arrays(args, opts)]
    needs = tuple(name for name in rule.wrt if _is_differentiable(rule.locate(name, args, opts)))
    value, pullback = rule.vjp(*args, argnums=needs, **opts)
    _check_home(rule, value, args, opts)
    _agree(rule, "vjp and the plain call", [value], [rule(*args, **opts)])
    dvalue = _random_like(value, np.random.default_rng(0))
    gradients = pullback(dvalue)
    _agree(
        rule, "the pullback at 2 dy and twice that at dy", _tree(pullback(2 * dvalue)), _doubled(gradients)
    )
    difference = max(
        _difference_error(rule, name, gradient, dvalue, args, opts)
        for name, gradient in zip(needs, gradients, strict=True)
    )
    ones = _array.namespace(value).ones_like(value)
    whole = pullback(ones)
    _agree(
        rule,
        "value_and_grad and vjp",
        _tree(rule.value_and_grad(*args, argnums=needs, **opts)[1]),
        _tree(whole),
    )
    for name, gradient in zip(needs, whole, strict=True):
        _check_gradient_home(rule, name, gradient, rule.locate(name, args, opts))
    transformed = _bridges.transformed_gradients(rule, args, opts, needs)
    autograd = None
    if transformed is not None:
        autograd = _agree(rule, "autograd and the pullback", _tree(transformed), _tree(whole))
    after = [_array.to_numpy(x) for x in _arrays(args, opts)]
    written = any(
        not np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(before, after, strict=True)
    )
    assert not written, f"{rule.__name__} wrote into an argument"
    return RuleReport(difference, autograd)


def _tree(value: Any) -> list[Array]:
    return list(optree.tree_leaves(value))


def _doubled(value: Any) -> list[Array]:
    return [2 * leaf for leaf in _tree(value)]


def _arrays(args: tuple[Any, ...], opts: dict[str, Any]) -> list[Array]:
    whole: Any = (args, opts)
    return [leaf for leaf in _tree(whole) if _array.is_array(leaf)]


def _is_differentiable(value: Any) -> bool:
    return all(_array.is_array(leaf) and _array.kind(leaf) == "floating" for leaf in _tree(value) or [None])


def _random_like(x: Array, rng: np.random.Generator) -> Array:
    values = np.asarray(rng.uniform(0.5, 1.5, size=tuple(x.shape)))
    return _array.namespace(x).astype(_array.from_numpy(values, x), x.dtype)


def _check_home(rule: Rule, value: Array, args: tuple[Any, ...], opts: dict[str, Any]) -> None:
    lead = next(x for x in _arrays(args, opts) if _array.kind(x) == "floating")
    assert _array.library(value) == _array.library(lead), f"{rule.__name__}: a {_array.library(value)} value"
    assert _array.device(value) == _array.device(lead), f"{rule.__name__}: value on {_array.device(value)}"
    wide = (
        "float32" if _array.is_half(lead) else _array.dtype_name(lead)
    )  # what a sum over half precisions may be returned in
    assert _array.dtype_name(value) in (_array.dtype_name(lead), wide), (
        f"{rule.__name__}: a {_array.dtype_name(value)} value of {_array.dtype_name(lead)} inputs"
    )


def _check_gradient_home(rule: Rule, name: str, gradient: Any, argument: Any) -> None:
    for g, x in zip(_tree(gradient), _tree(argument), strict=True):
        found = (_array.library(g), _array.dtype_name(g), tuple(g.shape), str(_array.device(g)))
        wanted = (_array.library(x), _array.dtype_name(x), tuple(x.shape), str(_array.device(x)))
        assert found == wanted, f"{rule.__name__}: the gradient of {name} is {found}, the argument {wanted}"


def _agree(rule: Rule, what: str, left: list[Array], right: list[Array]) -> float:
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        x, y = np.asarray(_array.to_numpy(a), dtype=float), np.asarray(_array.to_numpy(b), dtype=float)
        gap = float(np.max(np.abs(x - y), initial=0.0) / max(np.max(np.abs(y), initial=0.0), 1e-30))
        assert gap <= _AGREEMENT[_array.dtype_name(a)], (
            f"{rule.__name__}: {what} differ by {gap:.2e}"
        )  # nan fails too
        worst = max(worst, gap)
    return worst


def _difference_error(
    rule: Rule, name: str, gradient: Any, dvalue: Array, args: tuple[Any, ...], opts: dict[str, Any]
) -> float:
    """The pullback against a central difference of ``<dvalue, value>``, along a random direction of one input."""
    argument = rule.locate(name, args, opts)
    leaves, tree = optree.tree_flatten(argument)
    dtype = _array.dtype_name(leaves[0])
    if dtype not in _STEP:
        return 0.0
    rng, step = np.random.default_rng(1), _STEP[dtype]
    directions = [_random_like(leaf, rng) for leaf in leaves]

    def along(t: float) -> float:
        moved = [leaf + t * direction for leaf, direction in zip(leaves, directions, strict=True)]
        new_args, new_opts = rule.replaced(name, optree.tree_unflatten(tree, moved), args, opts)
        value = np.asarray(_array.to_numpy(rule(*new_args, **new_opts)), dtype=float)
        return float(np.sum(value * np.asarray(_array.to_numpy(dvalue), dtype=float)))

    slope = (along(step) - along(-step)) / (2 * step)
    pairs = [
        (np.asarray(_array.to_numpy(g), float), np.asarray(_array.to_numpy(d), float))
        for g, d in zip(_tree(gradient), directions, strict=True)
    ]
    exact = float(sum(np.sum(g * d) for g, d in pairs))
    size = max(float(sum(np.sum(np.abs(g * d)) for g, d in pairs)), 1e-6)
    error = abs(slope - exact) / size
    tolerance = _DIFFERENCE_TOLERANCE[dtype]
    assert error <= tolerance, f"{rule.__name__}: the gradient of {name} is off its difference by {error:.2e}"
    return error
