"""Mutual information of points and labels, by distances to neighbours of the same label, after Ross.

The algebra is in ``docs/derivations/mutual_information.md``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from zlpr import _array, _bridges, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _constants, _metric, _points
from zlpr.entropy._edges import in_base
from zlpr.entropy._scaling import checked_scaling, scaled
from zlpr.entropy._within import count_within
from zlpr.entropy.search import nearest

__all__ = ["knn_mutual_information_discrete"]


def knn_mutual_information_discrete(
    x: Array,
    labels: Array,
    *,
    k: int = 3,
    standardize: bool | str = True,
    method: str = "auto",
    reduction: str = "mean",
    base: float | None = None,
) -> Array:
    r"""Mutual information of a continuous variable and a label.

    .. math::

        \hat I = \psi(n) + \langle \psi(k_i) - \psi(n_{l_i}) - \psi(m_i + 1) \rangle

    where :math:`n_l` points have the label l, :math:`k_i` is the smaller of k and :math:`n_{l_i} - 1`, and :math:`m_i`
    is the number of other points, of any label, nearer to point i than the :math:`k_i`-th of its own label, in the
    maximum norm. Points alone with their label are left out, and do not count.

    Parameters
    ----------
    x : (n, d) array
        Points: float16, bfloat16, float32 or float64.
    labels : (n,) array
        Their labels: integers or booleans, of the library and device of x.
    k : int, default 3
        Which neighbour.
    standardize : bool or "rank", default True
        As for `knn_mutual_information`.
    method : {"auto", "tree", "brute"}, default "auto"
        As for `neighbors`. On the host the labels are gone through one after the other, elsewhere and with ``"brute"``
        all pairs are compared, in blocks.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"none"`` gives the local values, shape (n,), nan where a point is left out.
    base : float, optional
        Unit of the result: 2 for bits; nats by default.

    Returns
    -------
    information : array
        0-d, in nats. An estimate may be negative. It has no derivative.

    Raises
    ------
    TypeError
        If an argument is no array, or of a wrong dtype or library.
    ValueError
        If shapes do not fit, k is not positive, an option is none of the above, or, on the host, an entry is not finite
        or no label is there twice. On a device, and in a trace, values are not read: the result is nan.

    Notes
    -----
    For a single column it is what scikit-learn's ``mutual_info_classif`` estimates, before that adds noise and sets
    negative values to 0. Equal points need no policy: a distance of 0 has no logarithm taken.

    References
    ----------
    .. [1] B. C. Ross, "Mutual information between discrete and continuous data sets", PLoS ONE 9, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_mutual_information_discrete
    >>> x, labels = np.asarray([[0.0], [1.0], [7.0], [9.0]]), np.asarray([0, 0, 1, 1])
    >>> float(knn_mutual_information_discrete(x, labels, k=1).round(6))  # psi(4) - psi(2) = 1/2 + 1/3
    0.833333
    """
    call = _checked(x, labels, k, standardize, method, reduction, in_base(base))
    value: Array = _bridges.compiled(x, _estimated, _array.detached(x), labels, call)
    return value


class _Options(NamedTuple):
    k: int
    scaling: Any
    method: str
    reduction: str
    scale: float


def _checked(
    x: Array, labels: Array, k: Any, standardize: Any, method: Any, reduction: Any, scale: float
) -> _Options:
    _points.require_points("x", x)
    if x.ndim != 2 or x.shape[0] < 2:
        raise ValueError(f"x must be of shape (n, d) with at least 2 points, not {tuple(x.shape)}")
    _array.require_array("labels", labels)
    _array.require_same_home("x", x, "labels", labels)
    if _array.kind(labels) not in ("integral", "bool"):
        raise TypeError(f"labels must be integers or booleans, not {labels.dtype}")
    if tuple(labels.shape) != (x.shape[0],):
        raise ValueError(
            f"labels must be one for each point, shape {(x.shape[0],)}, not {tuple(labels.shape)}"
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    _points.require_finite("x", x)
    k = _points.checked_k(k, int(x.shape[0]) - 1, "other points")
    return _Options(k, checked_scaling(standardize), _points.checked_method(method), reduction, scale)


def _estimated(x: Array, labels: Array, options: _Options) -> Array:
    xp = _array.namespace(x)
    wide = _array.as_dtype(x, _array.compute_dtype(x))
    points = _ops.settled(scaled(wide[None, ...], options.scaling)[0][0, ...])
    with _walk.quiet(points):
        radii, near, alike = _same_label(points, _whole(labels), options)
        kept = alike > 1
        inside = count_within([points], [radii], True, kept, options.method)
        # A point at distance 0 from its neighbour is not inside itself.
        others = _array.as_dtype(inside, points.dtype) - _array.as_dtype(radii > 0, points.dtype)
        total = xp.sum(_array.as_dtype(kept, points.dtype))
        local = (
            _constants.digamma_of(total)
            + _constants.digamma_of(near)
            - _constants.digamma_of(alike)
            - _constants.digamma_of(others + 1.0)
        ) * options.scale
        finite = xp.all(xp.isfinite(wide)) & (total > 0)
        if options.reduction == "none":
            value = _ops.where(kept & finite, local, math.nan, local)
        else:
            value = _ops.row_sum(_ops.where(kept, local, 0.0, local))
            value = value / total if options.reduction == "mean" else value
            value = _ops.where(finite, value, math.nan, value)
    if _points.is_host(points) and not bool(total > 0):
        raise ValueError("labels must have a label that is there at least twice")
    return value


def _whole(labels: Array) -> Array:
    xp = _array.namespace(labels)
    return xp.astype(labels, xp.int32) if _array.kind(labels) == "bool" else labels


def _same_label(points: Array, labels: Array, options: _Options) -> tuple[Array, Array, Array]:
    """Distance to the k-th other point of the same label or the last, which one that is, and how many have it, (n,)."""
    if _points.is_host(points) and options.method != "brute":
        return _label_by_label(points, labels, options)
    xp, k = _array.namespace(points), options.k
    own = xp.arange(points.shape[0], device=_array.device(points))

    def kernel(x: Array, own_label: Array, place: Array) -> tuple[Array, ...]:
        same = own_label[:, None] == labels[None, :]
        gaps = _metric.pair_powers(x, points, math.inf)
        gaps = _ops.where(same & (place[:, None] != own[None, :]), gaps, math.inf, gaps)
        chosen = xp.take_along_axis(gaps, _ops.smallest(gaps, k), axis=-1)
        counts = xp.count_nonzero(same, axis=-1)
        last = xp.max(_ops.where(chosen < math.inf, chosen, -math.inf, chosen), axis=-1)
        return last, _array.as_dtype(counts, x.dtype)

    radii, alike = _walk.walk_queries(kernel, points, labels, own, width=4 * points.shape[0])
    near = _ops.clip(alike - 1.0, 1.0, float(k))
    return _ops.where(alike > 1, radii, 0.0, radii), near, alike


def _label_by_label(points: Array, labels: Array, options: _Options) -> tuple[Array, Array, Array]:
    xp = _array.namespace(points)
    radii, near, alike = (xp.zeros_like(points[:, 0]) for _ in range(3))
    found = xp.unique_inverse(labels).inverse_indices
    order = xp.argsort(found, stable=True)
    ordered, start = xp.take(found, order), 0
    while start < points.shape[0]:
        stop = int(xp.searchsorted(ordered, ordered[start : start + 1], side="right")[0])
        rows, count = order[start:stop], stop - start
        near[rows], alike[rows] = float(max(1, min(options.k, count - 1))), float(count)
        if count > 1:
            k = min(options.k, count - 1)
            own = xp.take(points, rows, axis=0)
            radii[rows] = nearest(own, None, k, math.inf, options.method)[0][:, k - 1]
        start = stop
    return radii, near, alike
