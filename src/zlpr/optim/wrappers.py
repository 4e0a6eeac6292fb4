"""Transforms for some of the leaves, or for some of the steps: masks, groups, accumulation, and nan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import optree

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree
from zlpr.optim import _stage
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered

_TreeOrFunction: TypeAlias = Tree | Callable[[Tree], Tree]


class Accumulated(NamedTuple):
    """What `accumulate` keeps: the mean of the updates since the last step."""

    mean: Tree


class Nonfinite(NamedTuple):
    """What `skip_nonfinite` keeps: at how many steps there was a nan or an infinity."""

    total_notfinite: Any


@remembered
def masked(inner: Transform, mask: _TreeOrFunction) -> Transform:
    """Apply a transform to some of the leaves; the updates of the others pass through as they are.

    Parameters
    ----------
    inner : Transform
        What to apply. Nothing is kept of the other leaves, and a global norm in it is that of its own leaves.
    mask : tree of bools, or callable
        True where `inner` applies: a tree like the parameters, a prefix of it, or a function of the parameters that
        returns one.

    Returns
    -------
    Transform
        To be chained. Alone, it would add the gradients of the other leaves to them: see `multi_transform`.

    Raises
    ------
    TypeError
        If `inner` is not a transform; at the first step, if the mask holds anything but bools.
    ValueError
        At the first step, if the mask does not fit the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.chain(masked(optim.scale(10.0), {"w": False, "b": True}), optim.sgd(0.1))
    >>> params = {"w": np.array([1.0]), "b": np.array([1.0])}
    >>> grads = {"w": np.array([1.0]), "b": np.array([1.0])}
    >>> params, _ = optimizer.step(params, grads, optimizer.init(params))
    >>> print(params["w"], params["b"])
    [0.9] [0.]
    """
    _require_transform("inner", inner)
    return Transform(_stage.only_where(inner.stages, mask))


@remembered
def multi_transform(transforms: Mapping[Any, Transform], param_labels: _TreeOrFunction) -> Transform:
    """Apply to each group of leaves a transform of its own.

    Parameters
    ----------
    transforms : mapping of labels to transforms
        One transform for each label.
    param_labels : tree of labels, or callable
        The label of each leaf: a tree like the parameters, a prefix of it, or a function of the parameters that
        returns one.

    Returns
    -------
    Transform
        All groups, in one pass over memory.

    Raises
    ------
    TypeError
        If a value of `transforms` is not a transform.
    ValueError
        At the first step, if a label is not in `transforms`, or the labels do not fit the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = multi_transform({"slow": optim.sgd(0.1), "fast": optim.sgd(1.0)}, {"w": "slow", "b": "fast"})
    >>> params = {"w": np.array([1.0]), "b": np.array([1.0])}
    >>> grads = {"w": np.array([1.0]), "b": np.array([1.0])}
    >>> params, _ = optimizer.step(params, grads, optimizer.init(params))
    >>> print(params["w"], params["b"])
    [0.9] [0.]
    """
    for label, transform in transforms.items():
        _require_transform(f"transforms[{label!r}]", transform)

    def selected_by(label: Any) -> Callable[[Tree], Tree]:
        def mask(params: Tree) -> Tree:
            labels = param_labels(params) if callable(param_labels) else param_labels
            unknown = [found for found in optree.tree_leaves(labels) if found not in transforms]
            if unknown:
                raise ValueError(
                    f"param_labels must hold labels of transforms ({', '.join(map(repr, transforms))}), "
                    f"got {unknown[0]!r}"
                )
            return optree.tree_map(lambda found: found == label, labels)

        return mask

    groups = [_stage.only_where(t.stages, selected_by(label)) for label, t in transforms.items()]
    return Transform(tuple(stage for group in groups for stage in group))


@remembered
def accumulate(n: int) -> Transform:
    """Wait for the updates of `n` calls and pass on their mean: the gradient of a batch `n` times as large.

    Parameters
    ----------
    n : int
        How many, at least 1.

    Returns
    -------
    Transform
        To be put into a `chain`: whatever follows in it stands still until the `n`-th call, its states and step
        counts too, and the updates are zero. Inside `masked` or a group this holds for that group alone.

    Raises
    ------
    ValueError
        If `n` is not a positive whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.chain(accumulate(2), optim.sgd(0.5))
    >>> params, state = np.array([1.0]), optimizer.init(np.array([1.0]))
    >>> for g in (1.0, 3.0):
    ...     params, state = optimizer.step(params, np.array([g]), state)
    ...     print(params)
    [1.]
    [0.]
    """
    if isinstance(n, bool) or n != int(n) or n < 1:
        raise ValueError(f"n must be a positive whole number, got {n!r}")
    n = int(n)

    def coefficients(count: Number) -> Numbers:
        place = count % n
        return place == 0, 1.0 / (_array.as_real(place) + 1), place == n - 1

    def kernel(g: Array, p: Array, slots: Accumulated, numbers: Numbers) -> tuple[Array, Accumulated]:
        (mean,), (first, weight, _) = slots, numbers
        if first is True:  # whatever was there before, nan as well
            return g, Accumulated(g)
        change = g - mean
        change *= weight
        if first is False:
            mean += change
        else:
            mean = _array.namespace(g).where(first, g, mean + change)
        return mean, Accumulated(mean)

    return Transform(
        (
            Stage(
                kernel,
                Accumulated,
                coefficients,
                gate=lambda numbers: numbers[2],
                clock=lambda count, tally: count // n,
            ),
        )
    )


@remembered
def skip_nonfinite(policy: Literal["skip", "raise", "zero"] = "skip") -> Transform:
    """Keep nan and infinity out of what follows.

    Parameters
    ----------
    policy : {"skip", "raise", "zero"}
        ``"skip"``: whatever follows in the chain stands still for this step, as after `accumulate`, and the updates
        are zero. ``"zero"``: all updates of a leaf that holds a nan or an infinity are zero. ``"raise"``: an error.

    Returns
    -------
    Transform
        Put first in a `chain`. ``state.slots[i].total_notfinite``, with its place i in the chain, counts the steps
        at which there was a nan or an infinity: an int on NumPy and the CPU's PyTorch, else a 0-d array.

    Raises
    ------
    ValueError
        If the policy is unknown, or it is ``"raise"`` and the arrays live where no value is read: on a device, or
        in a trace.
    FloatingPointError
        At a step with ``"raise"``; nothing has been written then.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.chain(skip_nonfinite(), optim.sgd(0.5))
    >>> params, state = np.array([1.0]), optimizer.init(np.array([1.0]))
    >>> for g in (np.nan, 1.0):
    ...     params, state = optimizer.step(params, np.array([g]), state)
    >>> print(params, state.slots[0].total_notfinite)
    [0.5] 1
    """
    if policy == "skip":
        return Transform(
            (
                Stage(
                    _passed,
                    Nonfinite,
                    measure=_all_finite,
                    tally=True,
                    gate=lambda numbers: numbers[0],
                    clock=lambda count, tally: count - tally,
                ),
            )
        )
    if policy == "zero":
        return Transform(
            (Stage(_zeroed, Nonfinite, measure=_all_finite, tally=True, leafwise=_leaf_is_finite),)
        )
    if policy == "raise":
        return Transform((Stage(_passed, Nonfinite, measure=_require_finite, tally=True),))
    raise ValueError(f"policy must be 'skip', 'raise' or 'zero', got {policy!r}")


def _passed(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, tuple[()]]:
    return g, ()


def _zeroed(g: Array, p: Array, factors: Sequence[Array], numbers: Numbers) -> tuple[Array, tuple[()]]:
    xp = _array.namespace(g)
    return xp.where(factors[0], g, xp.zeros_like(g)), ()


def _leaf_is_finite(g: Array, p: Array, slots: Any, numbers: Numbers) -> tuple[Sequence[Array], tuple[()]]:
    xp, finite = _array.namespace(g), _all_finite([g])
    if not _array.is_array(finite):
        finite = xp.asarray(finite, **_array.beside(g))
    return (finite,), ()


def _all_finite(leaves: Leaves) -> Number:
    """Whether there is no nan and no infinity: a bool on the host, a 0-d array elsewhere."""
    if not leaves:
        return True
    xp = _array.namespace(leaves[0])
    if _array.place(leaves[0]) != "host":
        flags = [xp.all(xp.isfinite(x)) for x in leaves if math.prod(x.shape)]
        return xp.all(xp.stack(flags)) if flags else True
    flags = []

    def look(x: Array) -> tuple[()]:
        flags.append(bool(xp.all(xp.isfinite(x))))
        return ()

    _treewalk.walk(look, [leaves])
    return all(flags)


def _require_finite(leaves: Leaves) -> Number:
    if leaves and _array.place(leaves[0]) != "host":
        raise ValueError(
            "policy='raise' has to read the updates, which is not done on a device or in a trace; use 'skip' or 'zero'"
        )
    for i, x in enumerate(leaves):
        if not _all_finite([x]):
            raise FloatingPointError(
                f"updates must be finite: leaf {i} of {len(leaves)}, of the shape {tuple(x.shape)}, holds a nan or "
                f"an infinity"
            )
    return True


def _require_transform(name: str, value: object) -> None:
    if not isinstance(value, Transform):
        raise TypeError(f"{name} must be a Transform, not {type(value).__qualname__}")
