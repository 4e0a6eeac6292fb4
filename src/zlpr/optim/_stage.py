"""What a transform is made of: stages, each an elementwise kernel with what it keeps and what it has to know.

A kernel sees one block and some numbers. Where it needs more than its own elements, the stage says what: a
*measure* is one number of all updates that reach it, a *leafwise* measure some arrays of each leaf, a *gate*
decides whether the stages behind it run at all, and a *mask* which leaves it meets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from zlpr._array import Array
from zlpr._treewalk import Leaves, Tree

Number: TypeAlias = Any
"""A Python number when the step runs eagerly, a 0-d array inside a trace."""

Numbers: TypeAlias = tuple[Number, ...]

Shape: TypeAlias = tuple[int, ...]

Kernel: TypeAlias = Callable[[Array, Array, Any, Numbers], tuple[Array, Sequence[Array]]]
"""``kernel(g, p, slots, numbers) -> (u, slots)`` on one block.

It owns the blocks of its slots and its own temporaries and may use in-place arithmetic on them, but returns
them all the same, because some libraries' arrays cannot be written. It never writes into `g` or `p`.
"""

Leafwise: TypeAlias = Callable[[Array, Array, Any, Numbers], tuple[Sequence[Array], Sequence[Array | None]]]
"""``leafwise(g, p, slots, numbers) -> (factors, slots)`` on one whole leaf, any dtypes.

The factors are arrays that broadcast to the leaf; the kernel gets their blocks, to be read only, in the place
of slots. The slots are the stage's own, in whatever shapes its `shapes` says.
"""


class NoSlots(NamedTuple):
    """The state of a stage that remembers nothing."""


@dataclass(frozen=True)
class Stage:
    """One stage of a chain."""

    kernel: Kernel
    slots: type[tuple[Any, ...]] = NoSlots
    """A named tuple: what is kept of every parameter, zero at first; its last field is the tally, if any."""
    coefficients: Callable[[Number], Numbers] = lambda count: ()
    """The kernel's numbers after `count` finished steps."""
    measure: Callable[[Leaves], Number] | None = None
    """One more number, appended to the coefficients: of all updates as they reach this stage."""
    leafwise: Leafwise | None = None
    """Arrays of each leaf, handed to the kernel in the place of slots."""
    shapes: Callable[[Shape], Sequence[Shape | None]] | None = None
    """Shapes of the slots of a leaf; None stands for a slot that the leaf has not. All like the leaf if not given."""
    tally: bool = False
    """Whether the steps are counted at which the measure was false."""
    gate: Callable[[Numbers], Number] | None = None
    """Of the coefficients and the measure: whether the stages behind this one run."""
    clock: Callable[[Number, Number], Number] = lambda count, tally: count
    """Finished steps behind the gate, of those before it and the tally."""
    behind: int | None = None
    """How many places further back the gate stands that this stage waits for."""
    mask: tuple[Any, ...] = ()
    """Trees of bools, or functions of the parameters that return them: the leaves for which all hold."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slots that are kept of every parameter."""
        fields: tuple[str, ...] = self.slots._fields  # type: ignore[attr-defined]  # every named tuple has it
        return fields[:-1] if self.tally else fields

    def shapes_of(self, shape: Shape) -> Sequence[Shape | None]:
        """Shapes of the slots of a leaf of the given shape."""
        return self.shapes(shape) if self.shapes else [shape] * len(self.names)

    @property
    def is_cut(self) -> bool:
        """Whether updates have to be finished before this stage can see them."""
        return self.measure is not None or self.leafwise is not None


def in_line(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Let every stage wait for the last gate before it, unless a mask keeps that gate to its own leaves."""
    placed: list[Stage] = []
    gate: int | None = None
    for k, stage in enumerate(stages):
        waits = stage.behind is not None
        placed.append(stage if waits or gate is None else dataclasses.replace(stage, behind=k - gate))
        if stage.gate is not None and not stage.mask:
            gate = k
    return tuple(placed)


def clocks(stages: Sequence[Stage], count: Number, tallies: Sequence[Number]) -> list[Number]:
    """Finished steps that each stage has taken: fewer than `count` behind a gate."""
    waited: list[Number] = []
    behind: list[Number] = []
    for k, (stage, tally) in enumerate(zip(stages, tallies, strict=True)):
        mine = count if stage.behind is None else behind[k - stage.behind]
        waited.append(mine)
        behind.append(stage.clock(mine, tally) if stage.gate else mine)
    return waited


def only_where(stages: Sequence[Stage], mask: Tree) -> tuple[Stage, ...]:
    """Restrict stages to the leaves that `mask` selects."""
    return tuple(dataclasses.replace(stage, mask=(*stage.mask, mask)) for stage in stages)
