"""The task of `zlpr demo`: pictures with several real handwritten digits, labelled with the set of those that occur.

The digits are the 1797 that scikit-learn carries (8 x 8 grey levels, from the UCI repository): nothing is
downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Matrix: TypeAlias = np.ndarray[Any, Any]

CELL = 8
GRID = 2
SIDE = CELL * GRID


@dataclass(frozen=True)
class DigitSets:
    """Pictures as rows of grey levels between 0 and 1, and the digits that occur in them."""

    X_train: Matrix
    Y_train: Matrix
    X_test: Matrix
    Y_test: Matrix


def digit_sets(seed: int = 0, n_train: int = 4000, n_test: int = 1000) -> DigitSets:
    """Build the task: a 2 x 2 grid of cells, from none to all of them filled, each with a digit drawn at random.

    Parameters
    ----------
    seed : int
        Seed of every draw.
    n_train, n_test : int
        Numbers of pictures. No handwritten digit occurs in both sets.

    Returns
    -------
    DigitSets
        X of shape (n, 256) float64, Y of shape (n, 10) uint8.
    """
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, CELL, CELL) / 16.0
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))
    train, test = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
    return DigitSets(
        *_pictures(images[train], digits[train], n_train, rng),
        *_pictures(images[test], digits[test], n_test, rng),
    )


def _pictures(images: Matrix, digits: Matrix, count: int, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    canvas = np.zeros((count, SIDE, SIDE))
    labels = np.zeros((count, 10), np.uint8)
    for picture, target in zip(canvas, labels, strict=True):
        cells = rng.permutation(GRID * GRID)[: rng.integers(0, GRID * GRID + 1)]
        for cell in cells:
            source = rng.integers(len(images))
            top, left = CELL * (int(cell) // GRID), CELL * (int(cell) % GRID)
            picture[top : top + CELL, left : left + CELL] = images[source]
            target[digits[source]] = 1
    return canvas.reshape(count, -1), labels
