"""How trees of parameters are visited: the leaves of several trees side by side, a block at a time.

The floor of :mod:`zlpr.optim`, as `_walk` is the floor of the losses: it knows how memory is visited and
nothing of mathematics. Large host arrays go in blocks that stay in the cache; small ones are packed together
into one block, so that two hundred little arrays do not cost two hundred rounds of calls; arrays on a device
or in a trace go whole.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import optree

from zlpr import _array
from zlpr._array import Array

Tree: TypeAlias = Any
"""Any nest of dict, list, tuple and named tuple with arrays for leaves."""

Leaves: TypeAlias = list[Array]
Row: TypeAlias = tuple[Array, ...]
Body: TypeAlias = Callable[..., Sequence[Array]]

# Elements visited at a time. NumPy: p, g, m, v and two temporaries stay in a 1 MiB L2 cache, nearly so in float64;
# PyTorch's calls cost more, and its threads want their share.
BLOCK = {"numpy": 1 << 15, "torch": 1 << 18}
_NUMPY_FLOATING = {np.dtype(name) for name in ("float16", "float32", "float64")}
LOOK = 8  # so many times as much where nothing is written: there are no temporaries to keep in the cache
SMALL = 1 << 14  # a leaf with fewer elements is packed with others


# --- trees --------------------------------------------------------------------------------------------------


def flatten(name: str, tree: Tree) -> tuple[Leaves, optree.PyTreeSpec]:
    """Take a tree apart; raise unless its leaves are floating arrays of one library and device."""
    leaves, spec = optree.tree_flatten(tree)
    if set(map(type, leaves)) == {np.ndarray} and {x.dtype for x in leaves} <= _NUMPY_FLOATING:
        return leaves, spec  # what follows would find nothing, an array at a time
    if not leaves:
        return leaves, spec
    # NumPy turns 0-d arrays into scalars at the first operation: a gradient may well be one
    leaves = [np.asarray(x) if isinstance(x, np.generic) else x for x in leaves]
    for i, x in enumerate(leaves):
        if not _array.is_array(x):
            _array.require_array(leaf_name(name, tree, i), x)
        if _array.kind(x) != "floating":  # asked first: the name of a leaf is slow to make
            _array.require_real_floating(leaf_name(name, tree, i), x)
    first = leaves[0]
    for i, x in enumerate(leaves[1:], 1):
        if not _same_home(first, x):
            names = leaf_name(name, tree, 0), leaf_name(name, tree, i)
            _array.require_same_home(names[0], first, names[1], x)
    return leaves, spec


def flatten_like(name: str, tree: Tree, like_name: str, like: Tree, leaves: Leaves) -> Leaves:
    """Leaves of a tree that must have the structure, the shapes and the home of `like`."""
    mine, spec = flatten(name, tree)
    expected = optree.tree_structure(like)
    if spec != expected:
        raise ValueError(
            f"{name} must have the same tree structure as {like_name}: "
            f"expected {_structure(expected)}, got {_structure(spec)}"
        )
    same = [x.shape for x in mine] == [y.shape for y in leaves]
    for i, (x, y) in enumerate(zip(mine, leaves, strict=True) if not same else ()):
        if x.shape != y.shape:
            raise ValueError(
                f"{leaf_name(name, tree, i)} must have the shape {tuple(y.shape)} of "
                f"{leaf_name(like_name, like, i)}, not {tuple(x.shape)}"
            )
    if mine:
        _array.require_same_home(like_name, leaves[0], name, mine[0])
    return mine


def leaf_name(name: str, tree: Tree, index: int) -> str:
    """Expression that reaches one leaf, as in ``params['layers'][0]``."""
    return str(optree.tree_accessors(tree)[index].codify(name))


def _structure(spec: optree.PyTreeSpec) -> str:
    return str(spec).removeprefix("PyTreeSpec(").removesuffix(")")


def _same_home(x: Array, other: Array) -> bool:
    if _array.library(x) != _array.library(other):
        return False
    return "traced" in (_array.place(x), _array.place(other)) or _array.device(x) == _array.device(other)


# --- what may be written ------------------------------------------------------------------------------------


def is_mutable(x: Array) -> bool:
    """Whether the library of an array lets its elements be overwritten."""
    return _array.library(x) not in ("jax", "dask")


def detached(x: Array) -> Array:
    """Drop PyTorch's graph from an array, keep its memory; other arrays as they are."""
    return x.detach() if _array.library(x) == "torch" else x


def writable(x: Array) -> Array:
    """Return the array itself, or a copy of it where NumPy forbids to write."""
    return x.copy() if isinstance(x, np.ndarray) and not x.flags.writeable else x


def owned_copy(x: Array) -> Array:
    """Copy an array, so that a kernel may treat it as its own; not one that cannot be written."""
    return _array.namespace(x).asarray(x, copy=True) if is_mutable(x) else x


def destination(x: Array, dtype: Any) -> Array | None:
    """Where the walk can write results shaped like `x`; None where each leaf goes whole and makes its own."""
    if _array.place(x) != "host":
        return None
    return _array.namespace(x).empty_like(x, dtype=dtype)


def zeros(like: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape, with the library and the device of `like`, in its compute dtype."""
    xp, dtype = _array.namespace(like), _array.compute_dtype(like)
    if shape == tuple(like.shape):
        return xp.zeros_like(detached(like), dtype=dtype)
    return xp.zeros(shape, dtype=dtype, **_array.beside(like))


def zero_count(leaves: Leaves) -> Any:
    """Where a step begins to count what only the arrays can tell: an int, or an array where no value is read."""
    if not leaves or _array.place(detached(leaves[0])) == "host":
        return 0
    xp = _array.namespace(leaves[0])
    return xp.zeros((), dtype=xp.int32, **_array.beside(leaves[0]))


def as_float32(x: Array) -> Array:
    """Copy an array to float32."""
    xp = _array.namespace(x)
    return xp.astype(x, xp.float32)


def quiet(x: Array) -> contextlib.AbstractContextManager[Any]:
    """Where infinities and nan go through in silence on NumPy too, as in every other library."""
    return np.errstate(all="ignore") if isinstance(x, np.ndarray) else contextlib.nullcontext()


def compiled(function: Callable[..., Any], static: tuple[str, ...]) -> Callable[..., Any]:
    """Put `function` under ``jax.jit``: a JAX array has come in, so the module is loaded."""
    return sys.modules["jax"].jit(function, static_argnames=static)  # type: ignore[no-any-return]


# --- the walk -----------------------------------------------------------------------------------------------


def walk(body: Body, reads: Sequence[Leaves], writes: Sequence[Sequence[Array | None]] = ()) -> list[Leaves]:
    """Run an elementwise `body` over the leaves of several trees side by side.

    Parameters
    ----------
    body : callable
        ``body(*read_blocks, *write_blocks)`` returns the new value of every write block, either the block
        itself, overwritten, or an array of its shape. It never writes into a read block.
    reads, writes : sequences of lists of arrays
        One list a tree, all of the same length and with leaves of the same shapes. A list of `writes` may
        hold None for arrays that do not exist yet (see `destination`).

    Returns
    -------
    list of lists
        The arrays of `writes` after the walk: the same objects, overwritten, where the library allows it.
    """
    rows: list[Row] = list(zip(*reads, *writes, strict=True))
    if rows and _array.place(rows[0][0]) == "host":
        _array.keep_freed_blocks()
        with np.errstate(all="ignore"):  # infinities and nan go through in silence, as in every other library
            _walk_host(body, rows, len(reads))
        return [list(column) for column in writes]
    results = [_whole(body, row, len(reads)) for row in rows]
    return [list(column) for column in zip(*results, strict=True)] if rows else [[] for _ in writes]


def _whole(body: Body, row: Row, n_reads: int) -> list[Array]:
    return [put(old, new) for old, new in zip(row[n_reads:], body(*row), strict=True)]


def put(old: Array | None, new: Array) -> Array:
    """Store a new value in the old array where there is one to write to; return the array that holds it."""
    if old is None or old is new or not is_mutable(old):
        return new
    old[...] = new
    return old


def _walk_host(body: Body, rows: Sequence[Row], n_reads: int) -> None:
    small: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        size = math.prod(row[0].shape)
        if size >= SMALL:
            _in_blocks(body, row, n_reads)
        elif size:
            small.setdefault(tuple(x.dtype for x in row), []).append(row)
    for alike in small.values():
        for pack in _packs(alike):
            _packed(body, pack, n_reads)


# Host arrays are NumPy's or PyTorch's: both have the method `reshape`, far quicker than the standard's function.


def _in_blocks(body: Body, row: Row, n_reads: int) -> None:
    block = _block_size(row) * (1 if len(row) > n_reads else LOOK)
    if all(map(_is_contiguous, row)):
        row = tuple(x.reshape(-1) for x in row)  # views: writing to them writes to the leaf
        size = row[0].shape[0]
        block = -(-size // max(1, round(size / block)))  # even ones: a small rest costs as many calls
    for index in _block_indices(tuple(row[0].shape), block):
        blocks = [x[index] for x in row]
        for old, new in zip(blocks[n_reads:], body(*blocks), strict=True):
            if new is not old:
                old[...] = new


def _is_contiguous(x: Array) -> bool:
    """Whether flattening an array makes a view: its elements lie in a row, or are one and the same."""
    if isinstance(x, np.ndarray):
        return x.flags.c_contiguous or not any(x.strides)
    return bool(x.is_contiguous()) or not any(x.stride())


def _block_size(row: Row) -> int:
    return BLOCK[_array.library(row[0])]


def _block_indices(shape: tuple[int, ...], block: int) -> Iterator[tuple[int | slice, ...]]:
    """Yield indices that cut an array into views of at most `block` elements, whatever its strides."""
    row = math.prod(shape[1:])
    if row > block:
        yield from ((i, *rest) for i in range(shape[0]) for rest in _block_indices(shape[1:], block))
        return
    step = block // row
    yield from ((slice(start, start + step),) for start in range(0, shape[0], step))


def _packs(rows: list[Row]) -> Iterator[list[Row]]:
    """Small leaves in groups that fill a block."""
    pack: list[Row] = []
    room = block = _block_size(rows[0])
    for row in rows:
        size = math.prod(row[0].shape)
        if size > room:
            yield pack
            pack, room = [], block
        pack.append(row)
        room -= size
    yield pack


def _packed(body: Body, pack: list[Row], n_reads: int) -> None:
    """Gather small leaves into one block, run the body once, and hand the results back."""
    xp = _array.namespace(pack[0][0])
    blocks = [xp.concat([x.reshape(-1) for x in column]) for column in zip(*pack, strict=True)]
    results = body(*blocks)
    start = 0
    for row in pack:
        stop = start + math.prod(row[0].shape)
        for old, new in zip(row[n_reads:], results, strict=True):
            old[...] = new[start:stop].reshape(old.shape)
        start = stop


# --- sums of one leaf ---------------------------------------------------------------------------------------


def sums(
    body: Callable[..., Array], arrays: Sequence[Array], axes: Sequence[int | tuple[int, ...]]
) -> list[Array]:
    """Sums of ``body(*blocks)`` over the axes of one leaf, one result for each entry of `axes`; axes are kept.

    The arrays have the shape of the first, or broadcast to it. The dtype is the compute dtype of the first.
    """
    first = arrays[0]
    xp, dtype, shape = _array.namespace(first), _array.compute_dtype(first), tuple(first.shape)
    arrays = [xp.broadcast_to(x, shape) for x in arrays]
    if _array.place(first) != "host" or math.prod(shape) <= _block_size((first,)):
        terms = body(*arrays)
        return [xp.sum(terms, axis=over, keepdims=True, dtype=dtype) for over in axes]
    sizes = [tuple(1 if i in _axes(over, len(shape)) else n for i, n in enumerate(shape)) for over in axes]
    totals = [xp.zeros(size, dtype=dtype, **_array.beside(first)) for size in sizes]
    for index in _block_indices(shape, _block_size((first,))):
        block = tuple(slice(i, i + 1) if isinstance(i, int) else i for i in index)
        terms = body(*(x[block] for x in arrays))
        for over, total in zip(axes, totals, strict=True):
            kept = tuple(slice(None) if i in _axes(over, len(shape)) else b for i, b in enumerate(block))
            part = total[kept]
            part += xp.sum(terms, axis=over, keepdims=True)
    return totals


def _axes(over: int | tuple[int, ...], ndim: int) -> set[int]:
    return {axis % ndim for axis in ((over,) if isinstance(over, int) else over)}


# --- one number of a whole tree -----------------------------------------------------------------------------


def wide_dtype(leaves: Leaves) -> Any:
    """Dtype that holds the compute dtype of every leaf."""
    return functools.reduce(_array.namespace(leaves[0]).result_type, map(_array.compute_dtype, leaves))
