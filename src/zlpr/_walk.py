"""How blocks of rows are visited: the one file where speed and scale are decided.

A kernel says what happens to one block of rows and knows nothing of devices or threads; the walk knows nothing of
mathematics. Host arrays (NumPy, CPU PyTorch) go in blocks that stay in the L2 cache, since a fresh large temporary
costs more there than the exponential it holds. Arrays on a device go whole, or in blocks of 256 MiB where a whole
would not fit; arrays in a trace go whole. Neighbour queries, of which each takes the memory of all points, go in blocks
everywhere. Dask arrays will go through ``map_blocks`` here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import EllipsisType
from typing import Any

import numpy as np

from zlpr import _array, _constants, _ops
from zlpr._array import Array

RowKernel = Callable[..., tuple[Array | None, ...]]
_Block = tuple[slice, EllipsisType]  # the standard has no index of the first axis alone

_HOST_BLOCK_BYTES = {"numpy": 1 << 20, "torch": 1 << 22}  # PyTorch's own threads want more work at a time
_DEVICE_BLOCK_BYTES = 1 << 28
_SURELY_ONE_BLOCK = 1 << 13  # elements: of so few, the questions a walk asks take as long as the work


def _block_rows(lead: Array, workspace: float) -> int:
    """Rows of `lead` to visit at a time."""
    where = _array.place(lead)
    if where == "traced" or 0 in lead.shape:
        return max(1, int(lead.shape[0]))
    width = int(lead.shape[1] * workspace) * max(
        4, _array.itemsize(lead)
    )  # half precisions are computed in float32
    if where == "host":
        size, workers = _HOST_BLOCK_BYTES[_array.library(lead)], _workers_for(lead)
        if workers > 1:
            several = -(-int(lead.shape[0]) // (2 * workers))
            return max(1, min(size * _SHARED_BLOCKS // width, several))
        return max(1, size // width)
    return max(1, _DEVICE_BLOCK_BYTES // width)


def _blocks(rows: int, step: int) -> Iterator[_Block]:
    return ((slice(start, min(start + step, rows)), ...) for start in range(0, rows, step))


def quiet(x: Array) -> AbstractContextManager[Any]:
    """No floating-point warnings: kernels handle the limits themselves, and ask no library to report them."""
    return nullcontext() if _array.library(x) in ("torch", "jax") else np.errstate(all="ignore")


def _take(x: Array | None, block: _Block) -> Array | None:
    return x if x is None or x.shape[0] == 1 else x[block]


_workers: ContextVar[int] = ContextVar("workers", default=1)
_WORTH_SHARING = 250_000  # elements; threads take longer to wake than fewer take to visit
_SHARED_BLOCKS = 2  # times the size of others, since threads wait for one another between two operations


@contextmanager
def set_workers(workers: int) -> Iterator[None]:
    """Have losses of large NumPy arrays visit their blocks on so many threads, within this context.

    One thread is the default, as for `scipy.fft.set_workers`, of which this is the like: a program that runs several
    processes wants no more. PyTorch and JAX have threads of their own, and are left to them.

    Parameters
    ----------
    workers : int
        At least 1.

    Raises
    ------
    ValueError
        If workers is no integer from 1 on.

    Notes
    -----
    The results are the same to the last digits, whatever the number: blocks are larger, and how a block is computed
    depends on what is in it. The setting is that of the calling thread.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_loss
    >>> from zlpr.rules import set_workers
    >>> scores = np.zeros((2048, 256))
    >>> with set_workers(2):
    ...     shared = zlpr_loss(scores, scores > 0)
    >>> print(shared == zlpr_loss(scores, scores > 0))
    True
    """
    if not _constants.is_integer(workers) or workers < 1:
        raise ValueError(f"workers must be an integer from 1 on, got {workers!r}")
    token = _workers.set(int(workers))
    try:
        yield
    finally:
        _workers.reset(token)


@functools.lru_cache(maxsize=1)  # threads are kept for the next call
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix="zlpr")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def _visit_each(visit: Callable[[_Block], None], blocks: Sequence[_Block], workers: int) -> None:
    """Visit every block; of the errors raised, that of the first block is the one that leaves."""
    if workers == 1:
        for block in blocks:
            visit(block)
        return
    visits: list[Future[None]] = []
    try:
        for block in blocks:
            visits.append(_pool(workers).submit(visit, block))  # what an interrupt leaves is counted
        wait(visits, return_when=FIRST_EXCEPTION)
    finally:  # nothing is written any more when this ends, be it by an error or an interrupt
        wait([left for left in visits if not left.cancel()])
    for done in visits:
        if not done.cancelled():
            done.result()


def _workers_for(lead: Array) -> int:
    large = lead.shape[0] * lead.shape[1] >= _WORTH_SHARING
    return _workers.get() if large and _array.library(lead) == "numpy" else 1


def walk_rows(
    kernel: RowKernel,
    *inputs: Array | None,
    memory: Sequence[Array | None] = (),
    workspace: float = 1.0,
) -> tuple[Array | None, ...]:
    """Apply `kernel` to blocks of rows and put the row-aligned results together.

    Parameters
    ----------
    kernel : callable
        ``kernel(*input_blocks, memory_blocks) -> tuple`` of arrays aligned with the block's rows, or None.
        A result that is its memory's block itself has been written in place.
    *inputs : (B, ...) arrays, (1, ...) arrays or None
        The first one, of two dimensions, decides the blocks; one of a single row is every block's.
    memory : sequence of (B, ...) arrays or None
        Where each of the results is to be put, on the host; allocated where it is None or missing.
    workspace : float
        Memory that the kernel needs a row, in that of a row of the first input.

    Returns
    -------
    tuple
        The results for all rows.
    """
    lead: Array = inputs[0]
    if type(lead) is np.ndarray and lead.size * workspace <= _SURELY_ONE_BLOCK:
        with np.errstate(all="ignore"):
            return kernel(*inputs, memory)
    rows, step = lead.shape[0], _block_rows(lead, workspace)
    _array.keep_freed_blocks()
    if rows <= step:
        with quiet(lead):
            return kernel(*inputs, memory)

    def visit(block: _Block) -> tuple[tuple[Array | None, ...], Sequence[Array | None]]:
        places = [_take(x, block) for x in memory]
        with quiet(lead):
            return kernel(*(_take(x, block) for x in inputs), places), places

    def keep(block: _Block, values: Sequence[Array | None], places: Sequence[Array | None]) -> None:
        for i, (whole, value) in enumerate(zip(results, values, strict=True)):
            if whole is not None and not (i < len(places) and value is places[i]):
                whole[block] = value

    first, *others = _blocks(rows, step)
    values, places = visit(first)
    results = tuple(
        _empty_like_rows(v, rows) if i >= len(memory) or memory[i] is None else memory[i]
        for i, v in enumerate(values)
    )
    keep(first, values, places)
    _visit_each(lambda block: keep(block, *visit(block)), others, _workers_for(lead))
    return results


_LEAST_ROWS, _QUERY_ROWS = 8, 256  # a matrix product wants as many as that, though they leave the L2 cache
_QUERY_ELEMENTS, _QUERY_NUMBERS = 5 << 19, 1 << 18


def walk_queries(
    kernel: Callable[..., tuple[Array, ...]], *inputs: Array | None, width: int
) -> tuple[Array, ...]:
    """Apply a kernel that needs (rows, width) of memory to blocks of rows, also inside a compiled program.

    Parameters
    ----------
    kernel : callable
        ``kernel(*input_blocks) -> tuple`` of arrays aligned with the block's rows.
    *inputs : (B, ...) arrays or None
        The first one is an array.
    width : int
        Numbers the kernel holds a row.

    Returns
    -------
    tuple
        The results for all rows.
    """
    lead = inputs[0]
    rows, step = lead.shape[0], _query_rows(lead, width)  # type: ignore[union-attr]  # the first input is an array
    with quiet(lead):
        if rows <= step:
            return kernel(*inputs)
        _array.keep_freed_blocks()
        return _ops.map_blocks(kernel, step, inputs)


_query_memory: ContextVar[int | None] = ContextVar("query_memory", default=None)


@contextmanager
def query_memory(limit: int) -> Iterator[None]:
    """Have `walk_queries` hold no more than so many bytes at a time in this context, a row at least."""
    token = _query_memory.set(limit)
    try:
        yield
    finally:
        _query_memory.reset(token)


def _query_rows(lead: Array, width: int) -> int:
    limit = _query_memory.get()
    if limit is not None:
        return max(1, limit // (width * _array.itemsize(lead)))
    if _array.place(lead) == "device":
        return max(1, _DEVICE_BLOCK_BYTES // (width * _array.itemsize(lead)))
    for_product = min(_QUERY_ROWS, _QUERY_ELEMENTS // width)
    return max(_LEAST_ROWS, for_product, _QUERY_NUMBERS // width)


def _empty_like_rows(part: Array | None, rows: int) -> Array | None:
    if part is None:
        return None
    xp = _array.namespace(part)
    return xp.empty((rows, *part.shape[1:]), dtype=part.dtype, device=_array.device(part))
