"""Mutual information and its relatives from nearest neighbours: conditional, total correlation, transfer entropy.

Each is a sum of entropies; what estimates it is in ``_information.py``, and the algebra is in
``docs/derivations/mutual_information.md``.
"""

from __future__ import annotations

import math
from typing import Any

from zlpr import _array
from zlpr._array import Array
from zlpr.entropy import _points
from zlpr.entropy._estimator import compiled_rule
from zlpr.entropy._information import Terms, estimated, prepared

__all__ = [
    "knn_conditional_mutual_information",
    "knn_mutual_information",
    "knn_total_correlation",
    "knn_transfer_entropy",
]

_OF_TWO: Terms = ((1, (0,)), (1, (1,)))
_CONDITIONAL: Terms = ((1, (0, 2)), (1, (1, 2)), (-1, (2,)))


@compiled_rule(wrt=("x", "y"))
def knn_mutual_information(
    x: Array,
    y: Array,
    *,
    k: Any = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    base: float | None = None,
    p: float = math.inf,
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Mutual information of two variables, after Kraskov, Stoegbauer and Grassberger or as a sum of entropies.

    .. math::

        \hat I_1 &= \psi(k) + \psi(n) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle \\
        \hat I_2 &= \psi(k) - 1/k + \psi(n) - \langle \psi(m_x) + \psi(m_y) \rangle \\
        \hat I_{3H} &= \hat H(x) + \hat H(y) - \hat H(x, y)

    where :math:`n_x(i)` is the number of other points nearer to point i in x than its k-th neighbour is in (x, y), in
    the maximum norm, and :math:`m_x(i)` the number of those no further in x than any of its k neighbours is in x.

    Parameters
    ----------
    x : (..., n, d) array
        Samples of n points of the first variable: float16, bfloat16, float32 or float64. Differentiable.
    y : (..., n, e) array
        The second variable at the same points, of the dtype of x. Differentiable.
    k : int or sequence of int, default 3
        Which neighbour; of several, all from one search, the estimates are averaged.
    estimator : {"ksg1", "ksg2", "3h"}, default "ksg1"
        The three of the formula. Only the last has a gradient: the others count points.
    standardize : bool or "rank", default True
        Bring every coordinate to standard deviation 1 (n - 1 in its square), so that units do not matter; or, with
        ``"rank"``, to the quantiles of the normal law at rank / (n + 1), so that no monotone transformation matters.
    duplicates : {"raise", "drop", "clamp"}, default "raise"
        What to do where a k-th neighbour is at distance 0: raise; count points that repeat one of lower index as
        absent, except from the standard deviation (not with ``"3h"``); or take the smallest positive distance of the
        sample in its place.
    method : {"auto", "tree", "brute"}, default "auto"
        As for `neighbors`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"none"`` gives the local values, shape (..., n).
    base : float, optional
        Unit of the result: 2 for bits; nats by default.
    p : float, default inf
        Order of the norm, at least 1, of ``"3h"``; the others take the maximum norm.
    smoothing : float, default 0.0
        As for `knn_entropy`, with ``"3h"`` alone; in standard deviations where these are the unit.
    k_reduction : {"mean", "none"}, default "mean"
        ``"none"`` gives the estimates for each k along a new last axis.

    Returns
    -------
    information : array
        Shape (...), in nats. An estimate may be negative.

    Raises
    ------
    TypeError
        If an argument is no array, or of a wrong dtype or library.
    ValueError
        If x has k points or fewer, y has not as many, or, on the host, an entry is not finite or duplicates are not
        allowed; if an option is none of the above; if the gradient of a count is asked for. On a device, and in a
        trace, values are not read: the result is nan.

    Notes
    -----
    Nothing is random: no noise is added to the data. A constant variable has information 0 by ``"ksg1"``.

    The value is unbiased, or nearly so, where the variables are independent, and too small where they determine each
    other: it cannot exceed :math:`\psi(n) - \psi(k)` or so. Of the two counts ``"ksg1"`` has the smaller variance, and
    ``"ksg2"`` the smaller bias in many dimensions.

    References
    ----------
    .. [1] A. Kraskov, H. Stoegbauer, P. Grassberger, "Estimating mutual information", Physical Review E 69, 2004,
       eq. 8 and 9.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_mutual_information
    >>> x = np.asarray([[0.0], [1.0], [3.0], [7.0]])
    >>> float(knn_mutual_information(x, x, k=1).round(6))  # psi(4) - psi(1) = 1 + 1/2 + 1/3
    1.833333
    >>> value, (dx, dy) = knn_mutual_information.value_and_grad(x, x**2, k=1, estimator="3h", argnums=(0, 1))
    >>> bool(abs(np.sum(dx)) < 1e-12), bool(abs(np.sum(x * dx)) < 1e-12)  # neither origin nor unit matters
    (True, True)
    """
    call = prepared(
        {"x": x, "y": y},
        _OF_TWO,
        k=k,
        estimator=estimator,
        standardize=standardize,
        duplicates=duplicates,
        method=method,
        reduction=reduction,
        base=base,
        p=p,
        smoothing=smoothing,
        k_reduction=k_reduction,
    )
    value, knn_mutual_information_pullback = estimated(call)
    return value, knn_mutual_information_pullback


@compiled_rule(wrt=("x", "y", "z"))
def knn_conditional_mutual_information(
    x: Array,
    y: Array,
    z: Array,
    *,
    k: Any = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    base: float | None = None,
    p: float = math.inf,
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Mutual information of x and y given z, by counting around neighbours or as a sum of entropies.

    .. math::

        \hat I_1 &= \psi(k) + \langle \psi(n_z + 1) - \psi(n_{xz} + 1) - \psi(n_{yz} + 1) \rangle \\
        \hat I_2 &= \psi(k) - 2/k + \langle \psi(m_z) - \psi(m_{xz}) + 1/m_{xz} - \psi(m_{yz}) + 1/m_{yz} \rangle \\
        \hat I_{3H} &= \hat H(x, z) + \hat H(y, z) - \hat H(z) - \hat H(x, y, z)

    Symbols are those of `knn_mutual_information`, with neighbours in (x, y, z).

    Parameters
    ----------
    x, y, z : (..., n, d) arrays
        Samples of n points of the three variables, each with its own number of coordinates: float16, bfloat16, float32
        or float64. Differentiable.
    k, estimator, standardize, duplicates, method, reduction, base, p, smoothing, k_reduction
        As for `knn_mutual_information`.

    Returns
    -------
    information : array
        Shape (...), in nats. An estimate may be negative.

    Raises
    ------
    TypeError, ValueError
        As for `knn_mutual_information`.

    Notes
    -----
    ``"ksg2"`` counts in boxes of unequal sides, for which the tree has no query: all pairs are compared, in blocks.

    References
    ----------
    .. [1] S. Frenzel, B. Pompe, "Partial mutual information for coupling analysis of multivariate time series",
       Physical Review Letters 99, 2007 (the first count).
    .. [2] M. Wibral, R. Vicente, M. Lindner, "Transfer entropy in neuroscience", in "Directed information measures in
       neuroscience", 2014 (both counts).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_conditional_mutual_information
    >>> x = np.asarray([[0.0], [1.0], [3.0], [7.0]])
    >>> constant = np.zeros((4, 1))  # what is known tells nothing: the mutual information is left
    >>> float(knn_conditional_mutual_information(x, x, constant, k=1).round(6))
    1.833333
    """
    call = prepared(
        {"x": x, "y": y, "z": z},
        _CONDITIONAL,
        k=k,
        estimator=estimator,
        standardize=standardize,
        duplicates=duplicates,
        method=method,
        reduction=reduction,
        base=base,
        p=p,
        smoothing=smoothing,
        k_reduction=k_reduction,
    )
    value, knn_conditional_mutual_information_pullback = estimated(call)
    return value, knn_conditional_mutual_information_pullback


@compiled_rule(wrt=("x",))
def knn_total_correlation(
    x: Array,
    *,
    k: Any = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    base: float | None = None,
    p: float = math.inf,
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Total correlation of the coordinates of x: how much they tell about each other, 0 if independent.

    .. math::

        \hat C_1 &= \psi(k) + (d - 1) \psi(n) - \langle \textstyle\sum_j \psi(n_j + 1) \rangle \\
        \hat C_2 &= \psi(k) - (d - 1)/k + (d - 1) \psi(n) - \langle \textstyle\sum_j \psi(m_j) \rangle \\
        \hat C_{3H} &= \textstyle\sum_j \hat H(x_j) - \hat H(x)

    Symbols are those of `knn_mutual_information`, with neighbours in x.

    Parameters
    ----------
    x : (..., n, d) array
        Samples of n points in d dimensions, at least 2: float16, bfloat16, float32 or float64. Differentiable.
    k, estimator, standardize, duplicates, method, reduction, base, p, smoothing, k_reduction
        As for `knn_mutual_information`.

    Returns
    -------
    correlation : array
        Shape (...), in nats. An estimate may be negative.

    Raises
    ------
    TypeError, ValueError
        As for `knn_mutual_information`.

    References
    ----------
    .. [1] A. Kraskov, H. Stoegbauer, P. Grassberger, "Estimating mutual information", Physical Review E 69, 2004
       (the generalisation to several variables).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_total_correlation
    >>> x = np.asarray([[0.0], [1.0], [3.0], [7.0]])
    >>> float(knn_total_correlation(np.concatenate([x, x], axis=-1), k=1).round(6))
    1.833333
    """
    _points.require_points("x", x)
    d = int(x.shape[-1])
    if d < 2:
        raise ValueError(f"x must have at least 2 coordinates, but its shape is {tuple(x.shape)}")
    call = prepared(
        {f"x[..., {i}]": x[..., i : i + 1] for i in range(d)},
        tuple((1, (i,)) for i in range(d)),
        k=k,
        estimator=estimator,
        standardize=standardize,
        duplicates=duplicates,
        method=method,
        reduction=reduction,
        base=base,
        p=p,
        smoothing=smoothing,
        k_reduction=k_reduction,
    )
    value, pullback = estimated(call)

    def knn_total_correlation_pullback(dvalue: Array) -> Array:
        return _array.namespace(x).concat(list(pullback(dvalue)), axis=-1)

    return value, knn_total_correlation_pullback


@compiled_rule(wrt=("source", "target"))
def knn_transfer_entropy(
    source: Array,
    target: Array,
    *,
    lag: int = 1,
    history: int = 1,
    source_history: int = 1,
    k: Any = 3,
    estimator: str = "ksg1",
    standardize: bool | str = True,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    base: float | None = None,
    p: float = math.inf,
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Transfer entropy from a source to a target series: what its past tells beyond the target's own past.

    .. math::

        T = I\bigl( (s_{t - l}, \dots, s_{t - l - h_s + 1});\; y_t \;\big|\; (y_{t-1}, \dots, y_{t - h}) \bigr)

    with the lag l, the history h of the target and that of the source, :math:`h_s`.

    Parameters
    ----------
    source : (..., n, d) array
        A series of n points in time, first to last: float16, bfloat16, float32 or float64. Differentiable.
    target : (..., n, e) array
        The series that is told about, at the same times, of the dtype of the source. Differentiable.
    lag : int, default 1
        How many steps before the target's present the source's past ends.
    history : int, default 1
        How many steps of the target's own past are known.
    source_history : int, default 1
        How many steps of the source's past are taken.
    k, estimator, standardize, duplicates, method, reduction, base, p, smoothing, k_reduction
        As for `knn_mutual_information`; ``reduction="none"`` gives a value for every time from the first that has all
        of its past.

    Returns
    -------
    transfer : array
        Shape (...), in nats. An estimate may be negative.

    Raises
    ------
    TypeError, ValueError
        As for `knn_mutual_information`; if a lag or a history is no integer of at least 1, or the series are too short.

    References
    ----------
    .. [1] T. Schreiber, "Measuring information transfer", Physical Review Letters 85, 2000, eq. 4.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_transfer_entropy
    >>> source = np.random.default_rng(0).normal(size=(2000, 1))
    >>> target = np.roll(source, 1, axis=0) + np.random.default_rng(1).normal(size=(2000, 1))
    >>> forth, back = knn_transfer_entropy(source, target), knn_transfer_entropy(target, source)
    >>> bool(abs(forth - np.log(2) / 2) < 0.05), bool(abs(back) < 0.05)  # signal as strong as noise; nothing
    (True, True)
    """
    _points.require_points("source", source)
    _points.require_paired_points("source", source, "target", target)
    for name, steps in (("lag", lag), ("history", history), ("source_history", source_history)):
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {steps!r}")
    n, first = int(target.shape[-2]), max(history, lag + source_history - 1)
    if n - first < 2:
        raise ValueError(f"source and target must have more than {first + 1} points in time, but have {n}")
    of_source, of_past = range(lag, lag + source_history), range(1, history + 1)
    value, pullback = knn_conditional_mutual_information.vjp(
        _delayed(source, of_source, first),
        _delayed(target, range(1), first),
        _delayed(target, of_past, first),
        k=k,
        estimator=estimator,
        standardize=standardize,
        duplicates=duplicates,
        method=method,
        reduction=reduction,
        base=base,
        p=p,
        smoothing=smoothing,
        k_reduction=k_reduction,
    )

    def knn_transfer_entropy_pullback(dvalue: Array) -> tuple[Array, Array]:
        of_x, of_now, of_z = pullback(dvalue)
        of_target = _restored(of_now, range(1), target) + _restored(of_z, of_past, target)
        return _restored(of_x, of_source, source), of_target

    return value, knn_transfer_entropy_pullback


def _delayed(series: Array, delays: range, first: int) -> Array:
    """The values so many steps ago, for every time from the first on, one beside the other."""
    n = series.shape[-2]
    return _array.namespace(series).concat(
        [series[..., first - delay : n - delay, :] for delay in delays], axis=-1
    )


def _restored(gradient: Array, delays: range, series: Array) -> Array:
    """The pullback of `_delayed`."""
    xp, (n, d) = _array.namespace(series), series.shape[-2:]
    first, total = n - gradient.shape[-2], xp.zeros_like(series)
    for i, delay in enumerate(delays):
        part = gradient[..., i * d : (i + 1) * d]
        before, after = (
            xp.zeros_like(series[..., : first - delay, :]),
            xp.zeros_like(series[..., n - delay :, :]),
        )
        total = total + xp.concat([before, part, after], axis=-2)
    return total
