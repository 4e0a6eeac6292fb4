"""Kullback-Leibler divergence and cross-entropy of two samples, from nearest neighbours in both.

The algebra is in ``docs/derivations/entropy.md``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _constants, _jackknife, _metric, _points
from zlpr.entropy._edges import Edges
from zlpr.entropy._estimator import estimator
from zlpr.entropy._sample import Batches, Logs, Options, Weights, edges_between, require_cotangent

__all__ = ["knn_cross_entropy", "knn_kl_divergence"]


class _Call(NamedTuple):
    """A call after the checks: both samples, which of their points count, edges to the other and to the own sample."""

    options: Options
    x: Batches
    y: Batches
    x_kept: Array | None
    y_kept: Array | None
    across: Edges
    within: Edges | None
    weights: Weights

    def logs(self, edges: Edges, columns: list[int] | None = None) -> Logs:
        """Log-lengths of edges from x, or of some of them."""
        name = "x" if edges is self.within else "x, beside y,"
        edges = edges if columns is None else edges.of(columns)
        return Logs.of(edges, self.x.points.shape[0], self.options, self.x_kept, name)

    def unless_finite(self, values: Array) -> Array:
        """`values`, and nan in the batches of which either sample is not finite."""
        return self.x.unless_finite(self.y.unless_finite(values))


def _prepared(
    x: Array,
    y: Array,
    own: bool,
    *,
    k: Any = 3,
    sample_weight: Array | None = None,
    every: bool = False,
    **options: Any,
) -> _Call:
    """The call, with edges to the neighbours k alone, or to every one up to the largest k + 1."""
    _points.require_points("x", x)
    _points.require_like_points("x", x, "y", y)
    n, m = int(x.shape[-2]), int(y.shape[-2])
    available, others = min((n - 1, "other points of x"), (m, "points of y")) if own else (m, "points of y")
    checked = Options.checked(k, available, others, **options)
    ks = tuple(range(1, max(checked.ks) + 2)) if every else checked.ks
    if max(ks) > available:
        raise ValueError(f"a standard error takes k + 1 {others}, but k is {max(checked.ks)} of {available}")
    if n == 0:
        raise ValueError(f"x must have points, but its shape is {tuple(x.shape)}")
    samples = Batches.of("x", x), Batches.of("y", y)
    x_kept = y_kept = None
    if checked.duplicates == "drop":
        x_kept = samples[0].first_of_equals("x", checked.method, max(ks) + 1 if own else 1)
        y_kept = samples[1].first_of_equals("y", checked.method, max(ks))
    across = edges_between(*samples, checked, ks, y_kept)
    within = edges_between(samples[0], None, checked, ks, x_kept) if own else None
    weights = Weights.checked("x", x, sample_weight, x_kept, checked)
    return _Call(checked, *samples, x_kept, y_kept, across, within, weights)


@estimator(wrt=("x", "y"))
def knn_kl_divergence(
    x: Array,
    y: Array,
    *,
    k: Any = 3,
    p: float = 2.0,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    sample_weight: Array | None = None,
    base: float | None = None,
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Kullback-Leibler divergence of the law of x from that of y, by distances to neighbours in both samples.

    .. math::

        \hat D(x \,\|\, y) = \frac dn \sum_i \log \frac{\nu_k(i)}{\rho_k(i)} + \log \frac{m}{n - 1}

    with the distance :math:`\nu_k(i)` of the i-th point of x from the k-th nearest point of y, and
    :math:`\rho_k(i)` that from the k-th nearest other point of x.

    Parameters
    ----------
    x : (..., n, d) array
        Samples of the first law: float16, bfloat16, float32 or float64. Differentiable.
    y : (..., m, d) array
        Samples of the second law, of the dtype of x; m may differ from n. Differentiable.
    k : int or sequence of int, default 3
        Which neighbour; of several, all from one search, the estimates are averaged.
    p : float, default 2.0
        Order of the norm, at least 1, or ``inf``. Every p estimates the same number.
    duplicates : {"raise", "drop", "clamp"}, default "raise"
        What to do where a k-th neighbour is at distance 0, whose logarithm is -inf: raise; count points that repeat
        one of lower index as absent; or take the smallest positive distance of the sample in its place.
    method : {"auto", "tree", "brute"}, default "auto"
        As for `neighbors`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"none"`` gives the local values, shape (..., n), weighted.
    sample_weight : (..., n) array, optional
        Weights of the points of x in the mean, which divides by their sum; densities are those of the whole sample.
    base : float, optional
        Unit of the result: 2 for bits; nats by default.
    smoothing : float, default 0.0
        A distance :math:`\delta`: :math:`\tfrac12 \log(\varepsilon^2 + \delta^2)` takes the place of
        :math:`\log \varepsilon`.
    k_reduction : {"mean", "none"}, default "mean"
        ``"none"`` gives the estimates for each k along a new last axis.
    return_std : bool, default False
        In a plain call, give a tuple of the value and its standard error, by the jackknife over both samples.

    Returns
    -------
    divergence : array
        Shape (...), in nats. An estimate may be negative.

    Raises
    ------
    TypeError
        If an argument is no array, or of a wrong dtype or library.
    ValueError
        If there are fewer neighbours than k, coordinates or batch axes differ, or, on the host, an entry is not finite
        or a distance is 0 and may not be; if an option is none of the above. On a device, and in a trace, values are
        not read: the result is nan.

    Notes
    -----
    It is ``knn_cross_entropy(x, y, form="post") - knn_entropy(x, form="post")``. The gradient is exact wherever no two
    neighbours are equally distant.

    References
    ----------
    .. [1] Q. Wang, S. R. Kulkarni, S. Verdu, "Divergence estimation for multidimensional densities via
       k-nearest-neighbor distances", IEEE Transactions on Information Theory 55, 2009, eq. 5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_kl_divergence
    >>> x, y = np.asarray([[0.0], [1.0]]), np.asarray([[3.0], [4.0]])
    >>> value, (dx, dy) = knn_kl_divergence.value_and_grad(x, y, k=1, argnums=(0, 1))
    >>> round(float(value), 6), dx.ravel(), dy.ravel()  # (log(3) + log(2)) / 2 + log(2)
    (1.589027, array([ 0.83333333, -1.25      ]), array([0.41666667, 0.        ]))
    """
    options: dict[str, Any] = {
        "p": p,
        "duplicates": duplicates,
        "method": method,
        "reduction": reduction,
        "base": base,
    }
    options |= {"smoothing": smoothing, "k_reduction": k_reduction}
    call = _prepared(x, y, True, k=k, sample_weight=sample_weight, **options)
    across, within = call.logs(call.across), call.logs(call.within)  # type: ignore[arg-type]  # asked for above
    d, scale = x.shape[-1], call.options.scale
    with _walk.quiet(across.values):
        counts = call.y.log_count(call.y_kept, 1, "post") - call.x.log_count(call.x_kept, 0, "post")
        local = call.unless_finite((d * (across.values - within.values) + counts) * scale)
        value = call.weights.reduced(local)

    def knn_kl_divergence_pullback(dvalue: Array) -> tuple[Array, Array]:
        require_cotangent(dvalue, value)
        with _walk.quiet(local):
            cotangents = call.unless_finite(call.weights.cotangents(dvalue, local) * (d * scale))
            of_x, of_y = across.pulled(cotangents)
            own, neighbours = within.pulled(cotangents)
            return call.x.restored(of_x - own - neighbours), call.y.restored(of_y)

    return value, knn_kl_divergence_pullback


@estimator(wrt=("x", "y"))
def knn_cross_entropy(
    x: Array,
    y: Array,
    *,
    k: Any = 3,
    p: float = 2.0,
    duplicates: str = "raise",
    method: str = "auto",
    reduction: str = "mean",
    sample_weight: Array | None = None,
    base: float | None = None,
    form: str = "psi",
    smoothing: float = 0.0,
    k_reduction: str = "mean",
) -> Any:
    r"""Cross-entropy of the law of x with respect to that of y, by distances from x to neighbours in y.

    .. math::

        -\widehat{\mathrm{E}}_x \log q
            = \frac dn \sum_i \log \nu_k(i) + \log B_{d,p} + \psi(m + 1) - \psi(k)

    with the density q of the law of y, and the distance :math:`\nu_k(i)` of the i-th point of x from the k-th nearest
    point of y. Symbols are those of `knn_entropy`.

    Parameters
    ----------
    x : (..., n, d) array
        Samples of the law that is averaged over: float16, bfloat16, float32 or float64. Differentiable.
    y : (..., m, d) array
        Samples of the law whose density is taken, of the dtype of x. Differentiable.
    k : int or sequence of int, default 3
        Which neighbour; of several, all from one search, the estimates are averaged.
    p : float, default 2.0
        Order of the norm, at least 1, or ``inf``. Every p estimates the same number.
    duplicates : {"raise", "drop", "clamp"}, default "raise"
        What to do where a k-th neighbour is at distance 0, whose logarithm is -inf: raise; count points that repeat
        one of lower index as absent; or take the smallest positive distance of the sample in its place.
    method : {"auto", "tree", "brute"}, default "auto"
        As for `neighbors`.
    reduction : {"mean", "sum", "none"}, default "mean"
        ``"none"`` gives the local values, shape (..., n), weighted.
    sample_weight : (..., n) array, optional
        Weights of the points of x in the mean, which divides by their sum; densities are those of the whole sample.
    base : float, optional
        Unit of the result: 2 for bits; nats by default.
    form : {"psi", "post"}, default "psi"
        ``"post"`` has :math:`\log m` for :math:`\psi(m + 1)`.
    smoothing : float, default 0.0
        A distance :math:`\delta`: :math:`\tfrac12 \log(\varepsilon^2 + \delta^2)` takes the place of
        :math:`\log \varepsilon`.
    k_reduction : {"mean", "none"}, default "mean"
        ``"none"`` gives the estimates for each k along a new last axis.
    return_std : bool, default False
        In a plain call, give a tuple of the value and its standard error, by the jackknife over both samples.

    Returns
    -------
    cross_entropy : array
        Shape (...), in nats.

    Raises
    ------
    TypeError
        If an argument is no array, or of a wrong dtype or library.
    ValueError
        If there are fewer neighbours than k, coordinates or batch axes differ, or, on the host, an entry is not finite
        or a distance is 0 and may not be; if an option is none of the above. On a device, and in a trace, values are
        not read: the result is nan.

    References
    ----------
    .. [1] N. Leonenko, L. Pronzato, V. Savani, "A class of Renyi information estimators for multidimensional
       densities", Annals of Statistics 36, 2008, section 3 (the case q = 1).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.entropy import knn_cross_entropy
    >>> x, y = np.asarray([[0.0]]), np.asarray([[1.0], [-2.0]])
    >>> round(float(knn_cross_entropy(x, y, k=1)), 6)  # log(2) + 3/2
    2.193147
    """
    if form not in ("psi", "post"):
        raise ValueError(f'form must be "psi" or "post", not {form!r}')
    options: dict[str, Any] = {
        "p": p,
        "duplicates": duplicates,
        "method": method,
        "reduction": reduction,
        "base": base,
    }
    options |= {"smoothing": smoothing, "k_reduction": k_reduction}
    call = _prepared(x, y, False, k=k, sample_weight=sample_weight, **options)
    logs, xp = call.logs(call.across), _array.namespace(x)
    d, scale = x.shape[-1], call.options.scale
    with _walk.quiet(logs.values):
        constant = _metric.log_unit_ball(d, call.options.p) + call.y.log_count(call.y_kept, 1, form)
        columns = [
            d * logs.values[..., i : i + 1] + (constant - _constants.digamma(one))
            for i, one in enumerate(call.options.ks)
        ]
        local = call.unless_finite(xp.concat(columns, axis=-1) * scale)
        value = call.weights.reduced(local)

    def knn_cross_entropy_pullback(dvalue: Array) -> tuple[Array, Array]:
        require_cotangent(dvalue, value)
        with _walk.quiet(local):
            cotangents = call.unless_finite(call.weights.cotangents(dvalue, local) * (d * scale))
            of_x, of_y = logs.pulled(cotangents)
            return call.x.restored(of_x), call.y.restored(of_y)

    return value, knn_cross_entropy_pullback


@knn_kl_divergence.error
def _divergence_error(x: Array, y: Array, **options: Any) -> Array:
    return _standard_error(_prepared(x, y, True, every=True, **options))


@knn_cross_entropy.error
def _cross_entropy_error(x: Array, y: Array, *, form: str = "psi", **options: Any) -> Array:
    return _standard_error(_prepared(x, y, False, every=True, **options))


def _standard_error(call: _Call) -> Array:
    """From the estimates without a point of x, and those without one of y, which are independent."""
    options, xp, d = call.options, _array.namespace(call.x.points), call.x.points.shape[2]
    without_x, without_y = [], []
    with _walk.quiet(call.x.points):
        weights = _jackknife.weights_of(call.weights, call.x.points)
        whole = _ops.row_sum(weights)[:, None]
        for k in options.ks:
            terms, gained = _jackknife.Sums.of(
                call.logs(call.across, [k - 1, k]), call.across.ends[:, :k], weights
            )
            lost: Array | float = 0.0
            if call.within is not None:
                own = _jackknife.Sums.of(call.logs(call.within, [k - 1, k]), call.within.ends[:, :k], weights)
                terms, lost = terms - own.terms, own.gained
            total = _ops.row_sum(terms)[:, None]
            without_x.append((total - terms - lost) / (whole - weights))
            without_y.append((total + gained) / whole)
        both = _jackknife.variance(without_x, call.x_kept, options)
        both = both + _jackknife.variance(without_y, call.y_kept, options)
        error = call.unless_finite(xp.sqrt(both) * (d * options.scale))
    return _jackknife.shaped(error, call.x.shape[:-2], options)
