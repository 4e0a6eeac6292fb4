"""Permutation tests: how often a measure of dependence is as large where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zlpr import _array, _ops
from zlpr._array import Array

__all__ = ["PermutationTest", "permutation_test"]


class PermutationTest(NamedTuple):
    """What `permutation_test` found.

    Parameters
    ----------
    value : array
        The measure of the data, shape (...).
    p_value : array
        The share of permutations, the data's own order among them, with a value at least as large, (...).
    null : array
        The values of the permutations, (n, ...).

    Examples
    --------
    >>> from zlpr.entropy import PermutationTest
    >>> PermutationTest._fields
    ('value', 'p_value', 'null')
    """

    value: Array
    p_value: Array
    null: Array


def permutation_test(
    estimator: Callable[..., Array], x: Array, y: Array, /, n: int = 199, rng: Any = 0, **options: Any
) -> PermutationTest:
    r"""Test whether x and y are independent, by permuting the points of x.

    .. math::

        p = \frac{1 + \#\{ j : \hat I(x_{\pi_j}, y) \ge \hat I(x, y) \}}{1 + n}

    Parameters
    ----------
    estimator : callable
        ``estimator(x, y, **options)`` gives one number, or one a batch, that is larger where there is more dependence:
        `knn_mutual_information`, `knn_mutual_information_discrete`.
    x : (..., n, d) array
        The points that are permuted, with their second last axis; the same permutation in every batch.
    y : array
        What stays: points, or labels.
    n : int, default 199
        How many permutations.
    rng : int or numpy.random.Generator, default 0
        Draws the permutations, the same for every library.
    **options
        Options of the estimator.

    Returns
    -------
    PermutationTest
        ``value``, ``p_value`` and ``null``, the values of the permutations. Where x and y are independent, ``p_value``
        is at most a with probability at most a, for every a: the test is exact.

    Raises
    ------
    TypeError
        If x is no array.
    ValueError
        If n is no integer of at least 1, or x has fewer than two axes.

    Notes
    -----
    Points that are not independent of each other, as in a series, cannot be permuted like this. Nor does it test
    dependence given a third variable: a permutation of x breaks what x has in common with that, too.

    References
    ----------
    .. [1] B. Phipson, G. K. Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics
       and Molecular Biology 9, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_mutual_information, permutation_test
    >>> x = np.random.default_rng(1).normal(size=(100, 1))
    >>> found = permutation_test(knn_mutual_information, x, x**2, n=99)
    >>> float(found.p_value)  # none of the 99 came near
    0.01
    """
    _array.require_array("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x must have points and coordinates as its last two axes, not shape {tuple(x.shape)}"
        )
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be an integer of at least 1, got {n!r}")
    xp, generator = _array.namespace(x), np.random.default_rng(rng)
    value = estimator(x, y, **options)
    null = []
    for _ in range(n):
        order = _array.from_numpy(generator.permutation(x.shape[-2]), x)
        null.append(estimator(xp.take(x, order, axis=x.ndim - 2), y, **options))
    drawn = xp.stack(null)
    reached = _array.as_dtype(xp.count_nonzero(drawn >= value, axis=0), value.dtype)
    share = (1.0 + reached) / (1.0 + n)
    return PermutationTest(value, _ops.where(xp.isnan(value), math.nan, share, share), drawn)
