"""The mechanism of the optimizers: stages, transforms made of them, chains as passes over memory.

A stage is an optional *measure*, one number of the updates that reach it, and an elementwise *kernel*. A
chain is cut before every measure that is not its first stage, because that measure must see finished
updates; between two cuts all kernels run on one block after the other, and every array is read once and
written once.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, ParamSpec, TypeAlias

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree

_Arguments = ParamSpec("_Arguments")

Number: TypeAlias = Any
"""A Python number when the step runs eagerly, a 0-d array inside a trace."""

Numbers: TypeAlias = tuple[Number, ...]

Kernel: TypeAlias = Callable[[Array, Array, Any, Numbers], tuple[Array, Sequence[Array]]]
"""``kernel(g, p, slots, numbers) -> (u, slots)`` on one block.

It owns the blocks of its slots and its own temporaries and may use in-place arithmetic on them, but returns
them all the same, because some libraries' arrays cannot be written. It never writes into `g` or `p`.
"""


class NoSlots(NamedTuple):
    """The state of a stage that remembers nothing."""


@dataclass(frozen=True)
class Stage:
    """One stage of a chain."""

    kernel: Kernel
    slots: type[tuple[Any, ...]] = NoSlots
    """A named tuple: what is kept of every parameter, each slot shaped like it and zero at first."""
    coefficients: Callable[[Number], Numbers] = lambda count: ()
    """The kernel's numbers after `count` finished steps."""
    measure: Callable[[Leaves], Number] | None = None
    """One more number, appended to the coefficients: of all updates as they reach this stage."""

    @property
    def width(self) -> int:
        """How many slots the stage keeps."""
        return len(self.slots._fields)  # type: ignore[attr-defined]  # every named tuple has it


class State(NamedTuple):
    """What a transform remembers between steps: a tree like any other, of optree and of JAX.

    Parameters
    ----------
    count : int or 0-d integer array
        Finished steps; an array inside a trace.
    slots : tuple
        For each stage a named tuple of trees that mirror the parameters; at least float32.

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
    PyTorch tensors are used detached: neither method records a graph. Float16 and bfloat16 parameters are
    updated in float32, from float32 state, and rounded once. NumPy is not asked to warn of overflow or nan.

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
        return State(
            0,
            tuple(
                s.slots(*(spec.unflatten(map(_zeros, leaves)) for _ in range(s.width))) for s in self.stages
            ),
        )

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
        slots = self._slot_leaves(state, params, leaves)
        own = _treewalk.writable if apply else _treewalk.owned_copy
        slots = [[own(x) for x in column] for column in slots]
        if apply:
            leaves = [_treewalk.writable(p) for p in leaves]
        numbers = [stage.coefficients(state.count) for stage in self.stages]
        sweep = self._compiled_sweep if leaves and _array.library(leaves[0]) == "jax" else self._sweep
        result, new_slots = sweep(
            [_treewalk.detached(p) for p in leaves],
            [_treewalk.detached(g) for g in gradients],
            [[_treewalk.detached(x) for x in column] for column in slots],
            numbers,
            apply=apply,
        )
        if leaves and _treewalk.is_mutable(leaves[0]):
            # Written through their detached views: a torch Parameter stays the one it was.
            result, new_slots = leaves if apply else result, slots
        trees = iter([spec.unflatten(column) for column in new_slots])
        kept = tuple(stage.slots(*(next(trees) for _ in range(stage.width))) for stage in self.stages)
        return spec.unflatten(result), State(state.count + 1, kept)

    def _slot_leaves(self, state: State, params: Tree, leaves: Leaves) -> list[Leaves]:
        """Leaves of all slots of all stages, checked against the parameters."""
        widths, found = [s.width for s in self.stages], [len(slots) for slots in state.slots]
        if widths != found:
            raise ValueError(
                f"state must come from this transform: expected {widths} slots in its stages, got {found}"
            )
        return [
            _treewalk.flatten_like(f"state.slots[{i}].{name}", tree, "params", params, leaves)
            for i, (stage, slots) in enumerate(zip(self.stages, state.slots, strict=True))
            for name, tree in zip(stage.slots._fields, slots, strict=True)  # type: ignore[attr-defined]
        ]

    @functools.cached_property
    def _compiled_sweep(self) -> Callable[..., tuple[Leaves, list[Leaves]]]:
        return _treewalk.compiled(self._sweep, static=("apply",))

    def _sweep(
        self, params: Leaves, grads: Leaves, slots: list[Leaves], numbers: list[Numbers], *, apply: bool
    ) -> tuple[Leaves, list[Leaves]]:
        """Make all passes over memory: the new parameters (or the updates), and the new slots."""
        updates, kept, done = grads, [], 0
        segments = _segments(self.stages)
        for k, stages in enumerate(segments):
            begin, end = done, done + len(stages)
            segment_numbers = list(numbers[begin:end])
            if stages[0].measure is not None:
                segment_numbers[0] = (*segment_numbers[0], stages[0].measure(updates))
            width = sum(stage.width for stage in stages)
            mine, slots = slots[:width], slots[width:]
            last = apply and k == len(segments) - 1
            run = _applying(stages, segment_numbers) if last else _emitting(stages, segment_numbers)
            if last:
                updates, *mine = _treewalk.walk(run, [updates], [params, *mine])
            else:
                fresh = [_treewalk.destination(p, _array.compute_dtype(p)) for p in params]
                updates, *mine = _treewalk.walk(run, [updates, params], [fresh, *mine])
            kept += mine
            done = end
        return updates, kept


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
    Everything runs in one pass over memory, and `Transform.step` allocates nothing that grows with the
    parameters, as long as every transform that needs the global norm comes first; each later one needs the
    updates before it as arrays.

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
    return Transform(tuple(stage for transform in transforms for stage in transform.stages))


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
    return (_cast(p + u, p.dtype),)


def _zeros(x: Array) -> Array:
    return _array.namespace(x).zeros_like(_treewalk.detached(x), dtype=_array.compute_dtype(x))


def _segments(stages: Sequence[Stage]) -> list[list[Stage]]:
    """Cut before every measure that is not the first stage."""
    segments: list[list[Stage]] = []
    for stage in stages:
        if stage.measure is not None or not segments:
            segments.append([])
        segments[-1].append(stage)
    return segments


def _applying(stages: Sequence[Stage], numbers: Sequence[Numbers]) -> _treewalk.Body:
    def add_updates(g: Array, p: Array, *slots: Array) -> list[Array]:
        u, kept = _run_kernels(stages, numbers, g, p, slots)
        if p.dtype == u.dtype:
            p += u
            return [p, *kept]
        return [*_sum(p, u, None), *kept]

    return add_updates


def _emitting(stages: Sequence[Stage], numbers: Sequence[Numbers]) -> _treewalk.Body:
    def emit_updates(g: Array, p: Array, _: Array | None, *slots: Array) -> list[Array]:
        u, kept = _run_kernels(stages, numbers, g, p, slots)
        return [u, *kept]

    return emit_updates


def _run_kernels(
    stages: Sequence[Stage], numbers: Sequence[Numbers], g: Array, p: Array, slots: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """Run all kernels of a segment on one block, in the parameter's compute dtype."""
    dtype = _array.compute_dtype(p)
    u, p = _cast(g, dtype), _cast(p, dtype)
    kept: list[Array] = []
    for stage, values in zip(stages, numbers, strict=True):
        mine = stage.slots(*slots[len(kept) : len(kept) + stage.width])
        u, new = stage.kernel(u, p, mine, tuple(_cast_number(v, dtype) for v in values))
        kept += new
    return u, kept


def _cast(x: Array, dtype: Any) -> Array:
    return x if x.dtype == dtype else _array.namespace(x).astype(x, dtype)


def _cast_number(value: Number, dtype: Any) -> Number:
    """Cast a 0-d array to the kernel's dtype, lest it promote float32 parameters; numbers stay."""
    return value if isinstance(value, int | float) else _cast(value, dtype)
