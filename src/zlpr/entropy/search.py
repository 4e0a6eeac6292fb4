"""Nearest neighbours, exactly: by a tree, by comparing all pairs in blocks, or on a line by sorting.

All ways give the same indices, those of the exact distances with ties by index, on every library. The algebra is in
``docs/derivations/entropy.md``.
"""

from __future__ import annotations

import functools
import importlib.util
import math

from zlpr import _array, _bridges
from zlpr._array import Array
from zlpr.entropy import _brute, _line, _metric, _points, _tree
from zlpr.entropy._ranking import Space

__all__ = ["neighbors"]


def neighbors(
    x: Array, k: int, *, queries: Array | None = None, p: float = 2.0, method: str = "auto"
) -> tuple[Array, Array]:
    r"""The k nearest points of every point, or of every query, in the p-norm.

    Parameters
    ----------
    x : (n, d) array
        Points: float16, bfloat16, float32 or float64. Half precisions are searched in float32.
    k : int
        Number of neighbours, at least 1 and at most n, or n - 1 without queries.
    queries : (m, d) array, optional
        Where to look from, of the library, device and dtype of x. By default every point looks for its neighbours
        among the others: it is not its own neighbour, though an equal point is.
    p : float, default 2.0
        Order of the norm, at least 1; ``inf`` for the largest coordinate.
    method : {"auto", "tree", "brute"}, default "auto"
        ``"tree"`` takes SciPy's k-d tree, for arrays in host memory; ``"brute"`` compares every query with every
        point, in blocks of bounded memory, on the device of the arrays. ``"auto"`` takes the faster by measurement
        on host arrays, and the second elsewhere or without SciPy. In one dimension points are sorted.

    Returns
    -------
    distances : (m, k) array
        In ascending order, of the dtype of x; m is n without queries.
    indices : (m, k) array
        Which points they are. Of equally distant points the one of lower index comes first.

    Raises
    ------
    TypeError
        If an argument is no array, the queries are of another library or dtype, k is no integer, or the tree is
        asked for arrays that are not in host memory.
    ValueError
        If shapes do not fit, k is out of range, p is below 1, or a host array is not finite.
    ImportError
        If the tree is asked for and SciPy is not installed: ``pip install zlpr[entropy]``.

    Notes
    -----
    For p = 2 brute force takes candidates by a matrix product of centred data. Its rounding errors would mistake close
    points for each other, so that candidates are compared again by direct subtraction, with twice the digits where two
    are within rounding errors of each other; a bound on the error of the product tells the rows for which a point
    might have been left out, and these are compared directly altogether. Where no value can be read without bringing
    it from a device (CuPy, PyTorch on a GPU), the product is not used. There, 8 candidates more than neighbours are
    compared with all digits: more points than these that differ by rounding errors alone may be taken in another order.
    Squared distances that differ relatively by less than 2^-42 in float32, or 2^-100 in float64, may count as equal.

    Distances are within 2 ulp for p in {1, 2, inf}, and 4 for others. They have no derivative; the estimators of this
    module have. Points that are not finite, on a device, make results meaningless.

    References
    ----------
    .. [1] J. H. Friedman, J. L. Bentley, R. A. Finkel, "An algorithm for finding best matches in logarithmic expected
       time", ACM Transactions on Mathematical Software 3, 1977 (k-d trees).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import neighbors
    >>> distances, indices = neighbors(np.asarray([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), 1)
    >>> distances.ravel().round(3), indices.ravel()
    (array([1.   , 4.243, 1.   ]), array([2, 2, 0]))
    """
    _points.require_points("x", x)
    if x.ndim != 2:
        raise ValueError(f"x must be of shape (n, d), not {tuple(x.shape)}")
    n = int(x.shape[0])
    if queries is None:
        k = _points.checked_k(k, n - 1, "other points")
    else:
        _points.require_like_points("x", x, "queries", queries)
        _points.require_finite("queries", queries)
        k = _points.checked_k(k, n, "points")
    _points.require_finite("x", x)
    p, method = _metric.checked_p(p), _points.checked_method(method)
    dtype = _array.compute_dtype(x)
    points = _array.as_dtype(x, dtype)
    asked = None if queries is None else _array.as_dtype(queries, dtype)
    distances, indices = nearest(points, asked, k, p, method)
    return _array.as_dtype(distances, x.dtype), indices


def nearest(
    points: Array, queries: Array | None, k: int, p: float, method: str, valid: Array | None = None
) -> tuple[Array, Array]:
    """`neighbors` after the checks, among the valid points alone."""
    points, queries = _array.detached(points), None if queries is None else _array.detached(queries)
    if method == "tree" and not _points.is_host(points):
        raise TypeError(
            f'method="tree" takes arrays in host memory, not {_array.library(points)} arrays elsewhere'
        )
    found: tuple[Array, Array] = _bridges.compiled(points, _nearest, points, queries, k, p, method, valid)
    return found


def _nearest(
    points: Array, queries: Array | None, k: int, p: float, method: str, valid: Array | None
) -> tuple[Array, Array]:
    xp, own = _array.namespace(points), None
    if queries is None:
        queries, own = points, xp.arange(points.shape[0], device=_array.device(points))
    space = Space(points, valid, p)
    if method == "auto" and points.shape[1] == 1:
        return _line.nearest(space, queries, own, k)
    if prefers_tree(points, p, method):
        return _tree.nearest(space, queries, own, k)
    return _brute.nearest(space, queries, own, k)


@functools.cache
def _scipy_is_installed() -> bool:
    return importlib.util.find_spec("scipy") is not None


_TREE_FROM = {2: 300, 3: 300, 4: 300, 5: 500, 6: 3000, 7: 20_000, 8: 40_000, 9: 130_000, 10: 400_000}
"""Coordinates, and from how many points on the tree is faster for p = 2: python benchmarks/entropy.py crossover."""

_TREE_FROM_OTHERWISE = 300  # for other norms brute force has no matrix product


def prefers_tree(points: Array, p: float, method: str) -> bool:
    """Whether the tree is asked for, or left to choose and faster."""
    return method == "tree" or (method == "auto" and _tree_is_faster(points, p))


def _tree_is_faster(points: Array, p: float) -> bool:
    if _array.place(points) != "host" or not _scipy_is_installed():
        return False
    n, d = points.shape
    return int(n) >= (_TREE_FROM.get(d, math.inf) if p == 2.0 else _TREE_FROM_OTHERWISE)
