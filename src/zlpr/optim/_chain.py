"""The mechanism of the optimizers: transforms, the state they keep, and chains of them.

A transform is a line of stages (`_stage`); a step takes them over memory (`_sweep`). What is checked, and what
is the caller's to keep, is decided here.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, ParamSpec

import numpy as np
import optree

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree
from zlpr.optim import _stage
from zlpr.optim._stage import Kernel, NoSlots, Number, Numbers, Stage
from zlpr.optim._sweep import Column, Scratch, Selected, sweep

__all__ = [
    "Kernel",
    "NoSlots",
    "Number",
    "Numbers",
    "Stage",
    "State",
    "Transform",
    "apply_updates",
    "chain",
    "remembered",
]

_Arguments = ParamSpec("_Arguments")


class State(NamedTuple):
    """What a transform remembers between steps: a tree like any other, of optree and of JAX.

    Parameters
    ----------
    count : int or 0-d integer array
        Finished steps; an array inside a trace.
    slots : tuple
        For each stage a named tuple of trees that mirror the parameters, at least float32, with None where the
        stage keeps nothing of a parameter. The last field may be a count.
    master : tree of float32 arrays
        The exact values of half precision parameters, None in the places of the others.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optim.sgd(0.1, momentum=0.9).init({"w": np.zeros(2)}).count
    0
    """

    count: Any
    """Finished steps: a Python int, or a 0-d integer array inside a trace."""
    slots: tuple[Any, ...]
    """For each stage a named tuple of trees that mirror the parameters; at least float32."""
    master: Any = None
    """The exact values of half precision parameters, None in the places of the others, or for all of them."""


def remembered(factory: Callable[_Arguments, Transform]) -> Callable[_Arguments, Transform]:
    """Decorator of the public factories: a transform is pickled as the call that made it."""

    @functools.wraps(factory)
    def made(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Transform:
        return replace(factory(*args, **kwargs), recipe=(made, args, kwargs))

    return made


def _made_again(
    factory: Callable[..., Transform], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Transform:
    return factory(*args, **kwargs)


@dataclass(frozen=True)
class Transform:
    """A gradient transform: what `zlpr.optim.adam`, `zlpr.optim.chain` and the others return.

    Notes
    -----
    PyTorch tensors are used detached: neither method records a graph. NumPy is not asked to warn of overflow or
    nan.

    Of float16 and bfloat16 parameters the state holds a float32 copy, so that steps below their resolution add
    up; the parameters are that copy, rounded. An entry that somebody else has written to is taken as it is.

    Under ``jax.jit`` the count becomes an array by itself. Under ``torch.compile`` a Python int is a constant,
    and every step would compile anew: begin with ``state._replace(count=torch.tensor(0, dtype=torch.int32))``.

    Parameters
    ----------
    stages : tuple of Stage
        What the transform is made of.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.sgd(0.5)
    >>> params = np.asarray([1.0])
    >>> optimizer.step(params, np.asarray([0.2]), optimizer.init(params))[0]
    array([0.9])
    """

    stages: tuple[Stage, ...]
    recipe: tuple[Any, ...] | None = field(default=None, compare=False, repr=False)
    """The factory that made it and its arguments, by which it is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.recipe is None:
            raise pickle.PicklingError("a Transform made of stages by hand cannot be pickled")
        return _made_again, self.recipe

    def init(self, params: Tree) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        params : tree of floating arrays
            The parameters: any nest of dict, list, tuple and named tuple.

        Returns
        -------
        State
            A count of 0 and slots of zeros, with the parameters' tree, library and device.

        Raises
        ------
        TypeError
            If a leaf is no floating array, or belongs to another library than the first.
        ValueError
            If a leaf lives on another device than the first.
        """
        leaves, spec = _treewalk.flatten("params", params)
        masters = [
            _treewalk.as_float32(p) if _array.is_half(p) else None for p in map(_treewalk.detached, leaves)
        ]
        selected = self._selected(params, leaves)
        kept = tuple(
            _fresh_slots(stage, leaves, spec, on) for stage, on in zip(self.stages, selected, strict=True)
        )
        return State(0, kept, _master_tree(spec, masters))

    def update(self, grads: Tree, state: State, params: Tree) -> tuple[Tree, State]:
        """Return what to add to the parameters, and the next state; nothing that was given is written to.

        Parameters
        ----------
        grads : tree of floating arrays
            Gradients with the structure and the shapes of `params`.
        state : State
            What `init` or the last step returned.
        params : tree of floating arrays
            The parameters.

        Returns
        -------
        updates : tree of arrays
            To be added with `apply_updates`; float32 for half precision parameters.
        state : State
            The next state.

        Raises
        ------
        ValueError
            If the trees, the shapes or the devices do not match; the message names the place.
        TypeError
            If a leaf is no floating array, or the libraries differ.
        """
        return self._advance(params, grads, state, apply=False)

    def step(self, params: Tree, grads: Tree, state: State) -> tuple[Tree, State]:
        """Return the parameters after one step, and the next state, in one pass over memory.

        The step owns the parameters and the state: it writes into their arrays where the library allows it
        (NumPy, PyTorch, CuPy) and returns the same arrays. JAX arrays come back new. Gradients are never
        written.

        Parameters
        ----------
        params : tree of floating arrays
            The parameters. An array may stand in one place only; it would be updated once for each.
        grads : tree of floating arrays
            Gradients with the structure and the shapes of `params`.
        state : State
            What `init` or the last step returned.

        Returns
        -------
        params : tree of arrays
            The new parameters.
        state : State
            The next state.

        Raises
        ------
        ValueError
            If the trees, the shapes or the devices do not match; the message names the place.
        TypeError
            If a leaf is no floating array, or the libraries differ.
        """
        return self._advance(params, grads, state, apply=True)

    def _advance(self, params: Tree, grads: Tree, state: State, *, apply: bool) -> tuple[Tree, State]:
        leaves, spec = _treewalk.flatten("params", params)
        gradients = _treewalk.flatten_like("grads", grads, "params", params, leaves)
        selected = self._selected(params, leaves)
        slots, tallies = self._slot_leaves(state, params, leaves, spec, selected)
        masters = _master_leaves(state, params, leaves, spec)
        own = _treewalk.writable if apply else _treewalk.owned_copy
        masters = [x if x is None else own(x) for x in masters]
        slots = [[[x if x is None else own(x) for x in column] for column in columns] for columns in slots]
        if apply:
            leaves = [_treewalk.writable(p) for p in leaves]
        clocks = _stage.clocks(self.stages, state.count, tallies)
        result, new_masters, new_slots, added = self._run(
            _detached(leaves),
            _detached(gradients),
            _detached(masters),
            [[_detached(column) for column in columns] for columns in slots],
            [stage.coefficients(clock) for stage, clock in zip(self.stages, clocks, strict=True)],
            selected=selected,
            apply=apply,
        )
        if leaves and _treewalk.is_mutable(leaves[0]):
            # Written through their detached views: a torch Parameter stays the one it was.
            result, new_masters, new_slots = leaves if apply else result, masters, slots
        kept = tuple(
            stage.slots(*map(spec.unflatten, columns), *([tally + more] if stage.tally else []))
            for stage, columns, tally, more in zip(self.stages, new_slots, tallies, added, strict=True)
        )
        return spec.unflatten(result), State(state.count + 1, kept, _master_tree(spec, new_masters))

    def _run(self, params: Leaves, *args: Any, selected: Selected, apply: bool) -> Any:
        if params and _array.library(params[0]) == "jax":
            return self._compiled_sweep(params, *args, selected=selected, apply=apply)
        if not params or _array.place(params[0]) != "host":
            return sweep(self.stages, params, *args, selected=selected, apply=apply)
        scratch = self._spare.pop() if self._spare else {}  # another thread's step takes another one
        try:
            return sweep(self.stages, params, *args, selected=selected, apply=apply, scratch=scratch)
        finally:
            self._spare.append(scratch)

    def _selected(self, params: Tree, leaves: Leaves) -> Selected:
        """For each stage, which leaves all its masks select."""
        return tuple(
            tuple(map(all, zip(*(_mask_leaves(m, params) for m in stage.mask), strict=True)))
            if stage.mask
            else (True,) * len(leaves)
            for stage in self.stages
        )

    def _slot_leaves(
        self, state: State, params: Tree, leaves: Leaves, spec: optree.PyTreeSpec, selected: Selected
    ) -> tuple[list[list[Column]], list[Number]]:
        """Leaves of all slots of all stages, checked against the parameters, and the tallies."""
        widths, found = [len(s.slots._fields) for s in self.stages], [len(slots) for slots in state.slots]  # type: ignore[attr-defined]
        if widths != found:
            raise ValueError(
                f"state must come from this transform: expected {widths} slots in its stages, got {found}"
            )
        columns: list[list[Column]] = []
        for i, (stage, slots, on) in enumerate(zip(self.stages, state.slots, selected, strict=True)):
            if stage.shapes is None and all(on):
                shapes = [[p.shape for p in leaves]] * len(stage.names)
            else:
                rows = [stage.shapes_of(tuple(p.shape)) if yes else [None] * len(stage.names)
                        for p, yes in zip(leaves, on, strict=True)]  # fmt: skip
                shapes = [[row[j] for row in rows] for j in range(len(stage.names))]
            columns.append(
                [
                    _column_of(f"state.slots[{i}].{name}", tree, params, leaves, spec, mine)
                    for name, tree, mine in zip(stage.names, slots, shapes, strict=False)
                ]
            )
        return columns, [
            slots[-1] if stage.tally else 0 for stage, slots in zip(self.stages, state.slots, strict=True)
        ]

    @functools.cached_property
    def _compiled_sweep(self) -> Callable[..., Any]:
        return _treewalk.compiled(functools.partial(sweep, self.stages), static=("apply", "selected"))

    @functools.cached_property
    def _spare(self) -> list[Scratch]:
        return []


@remembered
def chain(*transforms: Transform) -> Transform:
    """Run transforms one after the other, each on the updates of the one before.

    Parameters
    ----------
    *transforms : Transform
        At least one. ``chain(clip_by_global_norm(1.0), adamw(1e-3))`` clips the gradients;
        ``chain(adamw(1e-3), clip_by_global_norm(0.1))`` clips the step.

    Returns
    -------
    Transform
        All of them as one, with one common count of steps.

    Raises
    ------
    TypeError
        If an argument is not a transform.
    ValueError
        If there is none.

    Notes
    -----
    Everything runs in one pass over memory as long as a transform that needs the global norm comes first. Each
    later one needs the updates before it as arrays: one more pass, into memory that the chain keeps from its
    first step on, so that no later `Transform.step` allocates anything that grows with the parameters.

    What follows `accumulate` or `skip_nonfinite` waits for it: updates are zero, and states and step counts stay,
    until there is something to do.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.5))
    >>> params, grads = {"w": np.array([1.0, 2.0])}, {"w": np.array([6.0, 8.0])}
    >>> params, state = optimizer.step(params, grads, optimizer.init(params))
    >>> print(params["w"])
    [0.7 1.6]
    """
    if not transforms:
        raise ValueError("chain needs at least one transform, got none")
    for i, transform in enumerate(transforms):
        if not isinstance(transform, Transform):
            raise TypeError(f"transforms[{i}] must be a Transform, not {type(transform).__qualname__}")
    return Transform(_stage.in_line([stage for transform in transforms for stage in transform.stages]))


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to parameters, which are left as they are.

    Parameters
    ----------
    params : tree of floating arrays
        The parameters.
    updates : tree of floating arrays
        What `Transform.update` returned: the same structure and shapes.

    Returns
    -------
    tree of arrays
        New parameters, in the parameters' dtypes.

    Raises
    ------
    ValueError
        If the trees, the shapes or the devices do not match.
    TypeError
        If a leaf is no floating array, or the libraries differ.

    Examples
    --------
    >>> import numpy as np
    >>> apply_updates([np.array(1.0)], [np.array(-0.25)])
    [array(0.75)]
    """
    leaves, spec = _treewalk.flatten("params", params)
    changes = _treewalk.flatten_like("updates", updates, "params", params, leaves)
    reads = [[_treewalk.detached(x) for x in column] for column in (leaves, changes)]
    fresh = [_treewalk.destination(p, p.dtype) for p in reads[0]]
    return spec.unflatten(_treewalk.walk(_sum, reads, [fresh])[0])


def _sum(p: Array, u: Array, result: Array | None) -> tuple[Array]:
    return (_array.as_dtype(p + u, p.dtype),)


def _detached(leaves: Sequence[Array | None]) -> list[Any]:
    if not leaves or type(leaves[0]) is np.ndarray:
        return list(leaves)
    return [x if x is None else _treewalk.detached(x) for x in leaves]


def _fresh_slots(stage: Stage, leaves: Leaves, spec: optree.PyTreeSpec, selected: Sequence[bool]) -> Any:
    """Zeros for the leaves that the stage meets, None for the others."""
    rows = [
        [None if shape is None else _treewalk.zeros(p, shape) for shape in stage.shapes_of(tuple(p.shape))]
        if on
        else [None] * len(stage.names)
        for p, on in zip(leaves, selected, strict=True)
    ]
    trees = [spec.unflatten([row[j] for row in rows]) for j in range(len(stage.names))]
    return stage.slots(*trees, *([_treewalk.zero_count(leaves)] if stage.tally else []))


def _mask_leaves(mask: Any, params: Tree) -> Sequence[bool]:
    """Flags of a mask's tree, or of a prefix of it, one for each leaf of the parameters."""
    tree = mask(params) if callable(mask) else mask
    try:
        flags, prefix = optree.tree_flatten(tree)
        below = prefix.flatten_up_to(params)
    except ValueError as error:
        raise ValueError(f"mask must be a tree of bools like params, or a prefix of one: {error}") from None
    wrong = [flag for flag in flags if not isinstance(flag, bool)]
    if wrong:
        raise TypeError(f"mask must hold bools, not {type(wrong[0]).__qualname__}")
    return [flag for flag, part in zip(flags, below, strict=True) for _ in optree.tree_leaves(part)]


def _master_tree(spec: optree.PyTreeSpec, masters: Column) -> Tree:
    return None if all(x is None for x in masters) else spec.unflatten(masters)


def _master_leaves(state: State, params: Tree, leaves: Leaves, spec: optree.PyTreeSpec) -> Column:
    shapes = [tuple(p.shape) if _array.is_half(p) else None for p in leaves]
    if all(shape is None for shape in shapes):
        return [None] * len(leaves)
    return _column_of("state.master", state.master, params, leaves, spec, shapes)


def _column_of(
    name: str,
    tree: Tree,
    params: Tree,
    leaves: Leaves,
    spec: optree.PyTreeSpec,
    shapes: Sequence[tuple[int, ...] | None],
) -> Column:
    """One entry of a tree for each leaf of the parameters: an array of the shape given, or None."""
    if list(shapes) == [p.shape for p in leaves]:
        return list(_treewalk.flatten_like(name, tree, "params", params, leaves))
    try:
        column: Column = list(spec.flatten_up_to(tree))
    except ValueError as error:
        raise ValueError(f"{name} must have the same tree structure as params: {error}") from None
    found, _ = _treewalk.flatten(name, [x for x in column if x is not None])
    got = [None if x is None else tuple(x.shape) for x in column]
    if got != list(shapes):
        raise ValueError(f"{name} must have leaves of the shapes {list(shapes)}, got {got}")
    if found:
        _array.require_same_home("params", leaves[0], name, found[0])
    return column
