"""Rows without labels: which they are, and batches in which they stand beside the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zlpr import _array
from zlpr._array import Array
from zlpr.models._training import Arrays, ones


def unlabelled(y: Array, known: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
    """Which rows are all nan; or all -1, where the others hold two values of their own, or these are known."""
    values = np.asarray(_array.to_numpy(y))
    values = values.reshape(values.shape[0], -1)
    if values.dtype.kind not in "if":
        return np.zeros(values.shape[0], dtype=bool)
    absent = np.isnan(values).all(axis=1)
    if absent.any():
        return np.asarray(absent)
    absent = (values == -1).all(axis=1)
    found = np.unique(values[~absent]) if known is None else known
    return np.asarray(absent & (found.size == 2) & (-1 not in found))


def chosen(x: Array, rows: np.ndarray[Any, Any]) -> Array:
    """The rows of an array that NumPy's truth values choose."""
    return _array.namespace(x).take(x, _array.from_numpy(np.flatnonzero(rows), x), axis=0)


@dataclass(frozen=True)
class PairedBatches:
    """Batches of labelled rows, followed by unlabelled ones.

    An epoch goes once through whichever of the two takes more batches; the others come round again meanwhile.
    """

    size: int
    """Most rows of either kind in a batch."""
    prepared: Callable[[Arrays, np.random.Generator], Arrays]
    """Adds what is drawn for each batch."""

    def of(self, data: Arrays, rng: np.random.Generator) -> Iterator[tuple[Arrays, float]]:
        """The arrays of each batch as the objective takes them, and its share; weights come last.

        The rows of either kind have together the weight of their number in the data in the term of all rows.
        """
        x, targets, others = data
        xp, counts = _array.namespace(x), (x.shape[0], others.shape[0])
        sizes = [min(self.size, n) for n in counts]
        steps = max(-(-n // size) for n, size in zip(counts, sizes, strict=True))
        laps = [_laps(n, steps * size, rng) for n, size in zip(counts, sizes, strict=True)]
        no_labels = xp.zeros((sizes[1], targets.shape[1]), dtype=targets.dtype, **_array.beside(targets))
        one, other = ones(x[: sizes[0], ...]), ones(others[: sizes[1], ...])
        weights = xp.concat((one, xp.zeros_like(other)))
        everyone = xp.concat((one * (counts[0] / sizes[0]), other * (counts[1] / sizes[1])))
        for step in range(steps):
            labelled, unlabelled = (
                _array.from_numpy(lap[step * size : (step + 1) * size], x)
                for lap, size in zip(laps, sizes, strict=True)
            )
            rows = xp.concat((xp.take(x, labelled, axis=0), xp.take(others, unlabelled, axis=0)))
            known = xp.concat((xp.take(targets, labelled, axis=0), no_labels))
            yield (*self.prepared((rows, known), rng), everyone, weights), 1 / steps


def _laps(n: int, count: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """As many row numbers as are asked for, in a new order each time round."""
    return np.concatenate([rng.permutation(n) for _ in range(-(-count // n))])[:count]
