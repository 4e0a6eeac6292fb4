"""How a chain runs: kernels wait until somebody has to see the updates, and then go over memory together.

Every leaf has a line of kernels that wait for it. A stage with a measure has the lines of its leaves run first;
what is left at the end is run once, with the parameters. Within a line the kernels take one block after the
other, so every array is read once and written once a line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from zlpr import _array, _treewalk
from zlpr._array import Array
from zlpr._treewalk import Leaves
from zlpr.optim._stage import Number, Numbers, Stage

Column: TypeAlias = list[Array | None]
"""One array for each leaf, None for leaves that have none."""

Selected: TypeAlias = tuple[tuple[bool, ...], ...]
"""For each stage, the leaves it meets."""

Scratch: TypeAlias = dict[int, Array]
"""Updates of leaves between two passes, kept for the next step."""


def sweep(
    stages: Sequence[Stage],
    params: Leaves,
    grads: Leaves,
    masters: Column,
    slots: list[list[Column]],
    numbers: Sequence[Numbers],
    *,
    selected: Selected,
    apply: bool,
    scratch: Scratch | None = None,
) -> tuple[Leaves, Column, list[list[Column]], list[Number]]:
    """Make all passes: the new parameters (or the updates), master copies, slots, and additions to the tallies."""
    run = _Sweep(stages, params, grads, masters, slots, scratch)
    added = [
        run.arrive(k, numbers[k], [i for i, on in enumerate(selected[k]) if on]) for k in range(len(stages))
    ]
    run.finish(range(len(params)), last=True, apply=apply)
    return run.updates, run.masters, run.slots, added


class _Sweep:
    def __init__(
        self,
        stages: Sequence[Stage],
        params: Leaves,
        grads: Leaves,
        masters: Column,
        slots: list[list[Column]],
        scratch: Scratch | None,
    ) -> None:
        self.stages, self.params = stages, params
        self.updates = list(grads)
        self.masters = list(masters)
        self.slots = [[list(column) for column in columns] for columns in slots]
        self.scratch: Scratch = {} if scratch is None else scratch
        self.lines: list[list[int]] = [[] for _ in params]
        self.numbers: list[Numbers] = []
        self.runs: list[Number] = []  # whether each stage runs
        self.opened: list[Number] = []  # whether those behind it do
        self.factors: dict[tuple[int, int], Sequence[Array]] = {}
        self.n_factors: dict[int, int] = {}

    def arrive(self, k: int, numbers: Numbers, leaves: Sequence[int]) -> Number:
        """Put one stage into the lines of its leaves; return what it adds to its tally."""
        stage = self.stages[k]
        runs = True if stage.behind is None else self.opened[k - stage.behind]
        if stage.is_cut and runs is not False:
            self.finish([i for i in leaves if self.lines[i]], last=False)
        if stage.measure is not None:
            numbers = (*numbers, True if runs is False else stage.measure([self.updates[i] for i in leaves]))
        self.numbers.append(numbers)
        self.runs.append(runs)
        self.opened.append(runs if stage.gate is None or runs is False else _both(runs, stage.gate(numbers)))
        if stage.leafwise is not None and runs is not False:
            for i in leaves:
                self._look_at(k, i)
        for i in leaves:
            self.lines[i].append(k)
        return _as_count(_both(runs, _negated(numbers[-1]))) if stage.tally else 0

    def _look_at(self, k: int, i: int) -> None:
        stage, runs = self.stages[k], self.runs[k]
        assert stage.leafwise is not None
        old = [column[i] for column in self.slots[k]]
        mine = [x if runs is True or x is None else _treewalk.owned_copy(x) for x in old]
        dtype = _array.compute_dtype(self.params[i])
        numbers = tuple(_cast_number(v, dtype) for v in self.numbers[k])
        with _treewalk.quiet(self.params[i]):
            factors, new = stage.leafwise(self.updates[i], self.params[i], mine, numbers)
        self.factors[k, i], self.n_factors[k] = factors, len(factors)
        for column, before, after in zip(self.slots[k], old, new, strict=True):
            if after is not None:
                column[i] = _treewalk.put(before, _chosen(runs, after, before))

    def finish(self, leaves: Sequence[int], *, last: bool, apply: bool = False) -> None:
        """Run the lines of some leaves, alike ones together, and empty them."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i in leaves:
            alike.setdefault((tuple(self.lines[i]), self.masters[i] is None), []).append(i)
        for (line, _), group in alike.items():
            self._pass(line, group, last=last, apply=apply)
            for i in group:
                self.lines[i] = []

    def _pass(self, line: Sequence[int], group: Sequence[int], *, last: bool, apply: bool) -> None:
        params, halves = [self.params[i] for i in group], self.masters[group[0]] is not None
        reads: list[Column] = [[self.updates[i] for i in group]]
        writes: list[Column] = []
        if apply:
            writes.append(list(params))
        else:
            reads.append(list(params))
            writes.append([self._target(i, last) for i in group])
        if halves:
            (writes if last else reads).append([self.masters[i] for i in group])
        places = [(k, column) for k in line for column in self._columns(k)]
        for k in line:
            if k in self.n_factors:
                for factors in zip(*(self.factors[k, i] for i in group), strict=True):
                    broadcast = _array.namespace(params[0]).broadcast_to
                    reads.append([broadcast(f, p.shape) for p, f in zip(params, factors, strict=True)])
        writes += [[column[i] for i in group] for _, column in places]
        body = self._body(line, len(reads), last=last, apply=apply, halves=halves)
        results, *kept = _treewalk.walk(body, reads, writes)
        self._store(self.updates, group, results)
        if halves and last:
            self._store(self.masters, group, kept.pop(0))
        for (_, column), new in zip(places, kept, strict=True):
            self._store(column, group, new)

    def _columns(self, k: int) -> list[Column]:
        """Slots that a kernel writes: none if it does not run, or its stage looks at whole leaves."""
        return [] if self.runs[k] is False or self.stages[k].leafwise is not None else self.slots[k]

    def _store(self, column: list[Any], group: Sequence[int], values: Sequence[Array]) -> None:
        for i, value in zip(group, values, strict=True):
            column[i] = value

    def _target(self, i: int, last: bool) -> Array | None:
        """Where the updates of a leaf are written: kept from step to step where nobody else gets them."""
        p = self.params[i]
        if last:
            return _treewalk.destination(p, _array.compute_dtype(p))
        kept = self.scratch.get(i)
        if kept is None or kept.shape != p.shape or kept.dtype != _array.compute_dtype(p):
            kept = _treewalk.destination(p, _array.compute_dtype(p))
            if kept is not None:
                self.scratch[i] = kept
        return kept

    def _body(
        self, line: Sequence[int], n_reads: int, *, last: bool, apply: bool, halves: bool
    ) -> _treewalk.Body:
        def body(*blocks: Array) -> list[Array]:
            reads, writes = iter(blocks[:n_reads]), iter(blocks[n_reads:])
            g = next(reads)
            p = next(writes if apply else reads)
            if not apply:
                next(writes)  # where the updates go: the walk puts them there
            master = next(writes if last else reads) if halves else None
            dtype = _array.compute_dtype(p)
            weights = _cast(p, dtype) if master is None else _restored(p, master)
            u, kept = self._kernels(line, _cast(g, dtype), weights, reads, writes)
            if not apply and (u is g or any(u is x for x in kept)):
                u = _treewalk.owned_copy(u)  # where nothing else copies it, on a device
            if not last:
                return [u, *kept]
            if master is not None:
                moved = weights + u
                return [_cast(moved, p.dtype) if apply else u + (weights - _cast(p, dtype)), moved, *kept]
            if apply:
                p += u
                return [p, *kept]
            return [u, *kept]

        return body

    def _kernels(
        self, line: Sequence[int], u: Array, p: Array, factors: Iterator[Array], slots: Iterator[Array]
    ) -> tuple[Array, list[Array]]:
        """Run the kernels of a line on one block, in the parameter's compute dtype."""
        kept: list[Array] = []
        for k in line:
            stage, runs = self.stages[k], self.runs[k]
            if runs is False:
                u = _array.namespace(u).zeros_like(u)
                continue
            numbers = tuple(_cast_number(v, p.dtype) for v in self.numbers[k])
            if stage.leafwise is not None:
                new, _ = stage.kernel(u, p, tuple(itertools.islice(factors, self.n_factors[k])), numbers)
                u = _chosen(runs, new, None)
                continue
            mine = tuple(itertools.islice(slots, len(self.slots[k])))
            before = mine if runs is True else tuple(map(_treewalk.owned_copy, mine))
            new, after = stage.kernel(u, p, mine, numbers)
            u = _chosen(runs, new, None)
            kept += [_chosen(runs, a, b) for a, b in zip(after, before, strict=True)]
        return u, kept


def _restored(p: Array, master: Array) -> Array:
    """Return the float32 copy of a half precision parameter, but what somebody else has written to it since."""
    xp = _array.namespace(p)
    return xp.where(xp.astype(master, p.dtype) == p, master, xp.astype(p, master.dtype))


def _cast(x: Array, dtype: Any) -> Array:
    return _array.as_dtype(x, dtype)


def _cast_number(value: Number, dtype: Any) -> Number:
    """Cast a 0-d array to the kernel's dtype, lest it promote float32 parameters; numbers stay."""
    if isinstance(value, bool | int | float) or _array.kind(value) != "floating":
        return value
    return _cast(value, dtype)


def _both(a: Number, b: Number) -> Number:
    if isinstance(a, bool):
        return b if a else False
    if isinstance(b, bool):
        return a if b else False
    return a & b


def _negated(a: Number) -> Number:
    return not a if isinstance(a, bool) else ~a


def _as_count(flag: Number) -> Number:
    return (
        int(flag)
        if isinstance(flag, bool)
        else _array.namespace(flag).astype(flag, _array.namespace(flag).int32)
    )


def _chosen(runs: Number, new: Array, old: Array | None) -> Array:
    """Return the new value where the stage runs, the old one, or zero, where it does not."""
    if runs is True:
        return new
    xp = _array.namespace(new)
    return xp.where(runs, new, xp.zeros_like(new) if old is None else old)
