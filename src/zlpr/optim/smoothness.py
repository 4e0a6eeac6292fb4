r"""How smooth an objective is along a path, and the constants of the theory that explains clipping.

The theory replaces a bound on the curvature by one that grows with the gradient,
:math:`\|\nabla^2 f\| \le L_0 + L_1 \|\nabla f\|`; ``docs/derivations/clipping.md`` has what follows from it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import optree

from zlpr import _array, _treewalk
from zlpr._treewalk import Leaves, Tree
from zlpr.optim.clipping import global_norm

Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class Smoothness(NamedTuple):
    """What `estimate_smoothness` measured: an entry a step, and the two constants.

    Parameters
    ----------
    gradient_norm : numpy.ndarray
        ‖∇f‖ at the beginning of each step.
    smoothness : numpy.ndarray
        Local smoothness along each step; nan for a step of length 0.
    l0, l1 : float
        The fitted constants; nan where no step can be used.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> result = optim.estimate_smoothness(lambda x: (x @ x, 2 * x), [np.array([1.0]), np.array([0.5])])
    >>> result.gradient_norm
    array([2.])
    """

    gradient_norm: Values
    smoothness: Values
    l0: float
    l1: float


def estimate_smoothness(
    value_and_grad: Callable[[Tree], tuple[Any, Tree]],
    path: Iterable[Tree],
    *,
    points: int = 1,
    fit: Literal["bound", "least_squares"] = "bound",
) -> Smoothness:
    r"""Measure the local smoothness along a path of parameters, and fit L₀ and L₁ to it.

    .. math:: \hat L_k = \max_{j \le J} \frac{\|\nabla f(θ_k + \tfrac jJ d_k) - \nabla f(θ_k)\|}
        {\tfrac jJ \|d_k\|}, \quad d_k = θ_{k+1} - θ_k, \qquad \hat L_k \approx L_0 + L_1 \|\nabla f(θ_k)\|

    Parameters
    ----------
    value_and_grad : callable
        ``params -> (value, grads)``, as `value_and_grad` of a loss is; the value is not used.
    path : iterable of trees of floating arrays
        The parameters at successive steps. They are copied as they come: a generator may step in place.
    points : int
        J, the gradients taken on each step; 1 needs those at the given parameters alone.
    fit : {"bound", "least_squares"}
        ``"bound"``: the line above all points that exceeds them least, in the mean of the ratios.
        ``"least_squares"``: the line with the least relative squares. Neither constant is negative.

    Returns
    -------
    Smoothness
        ``gradient_norm`` and ``smoothness``, NumPy arrays with an entry a step, and ``l0`` and ``l1``.

    Raises
    ------
    ValueError
        If the path has fewer than two points, or an option is out of range.

    Notes
    -----
    The differences of gradients have an absolute error of about ε‖∇f‖/‖d‖: short steps want float64. Steps whose
    smoothness is nan or infinite have no part in the fit. It reads values: not inside ``jax.jit``.

    With the constants, ``chain(clip_by_global_norm(l0 / l1, mode="soft"), sgd(1 / l0))`` takes steps of
    :math:`1 / (L_0 + L_1\|g\|)`.

    References
    ----------
    Zhang, He, Sra and Jadbabaie, Why gradient clipping accelerates training, arXiv:1905.11881, assumption 3 and the
    estimate of the experiments. Su, https://kexue.fm/archives/7469.

    Examples
    --------
    >>> import numpy as np
    >>> path = [np.array([x]) for x in np.linspace(5.0, 0.0, 501)]
    >>> found = estimate_smoothness(lambda x: (np.cosh(x).sum(), np.sinh(x)), path)
    >>> print(f"{found.l0:.1f} {found.l1:.1f}")  # f'' = cosh x <= 1 + |sinh x|
    1.0 1.0
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points!r}")
    if fit not in ("bound", "least_squares"):
        raise ValueError(f"fit must be 'bound' or 'least_squares', got {fit!r}")

    steps: list[tuple[float, float]] = []
    here: _Point | None = None
    for params in path:
        before, here = here, _point(value_and_grad, params)
        if before is not None:
            steps.append((_length(before.grads), _along(value_and_grad, before, here, points)))
    if not steps:
        raise ValueError("path must have at least two points")
    gradient_norm, smoothness = np.asarray(steps).T
    return Smoothness(gradient_norm, smoothness, *_fitted(gradient_norm, smoothness, fit))


class _Point(NamedTuple):
    """Parameters with their gradients, as leaves that are nobody else's."""

    params: Leaves
    grads: Leaves
    spec: optree.PyTreeSpec


def _point(value_and_grad: Callable[[Tree], tuple[Any, Tree]], params: Tree) -> _Point:
    leaves, spec = _treewalk.flatten("path", params)
    grads = _treewalk.flatten_like("grads", value_and_grad(params)[1], "params", params, leaves)
    return _Point(_copies(leaves), _copies(grads), spec)


def _copies(leaves: Leaves) -> Leaves:
    return [_treewalk.owned_copy(_treewalk.detached(x)) for x in leaves]


def _along(
    value_and_grad: Callable[[Tree], tuple[Any, Tree]], before: _Point, after: _Point, points: int
) -> float:
    """Largest change of the gradient for a change of the parameters, from `before` on the way to `after`."""
    if before.spec != after.spec:
        raise ValueError(f"path must keep its tree structure, got {before.spec} and then {after.spec}")
    step = _differences(after.params, before.params)
    length = _length(step)
    if length == 0.0:
        return math.nan
    found = [_length(_differences(after.grads, before.grads)) / length]
    for part in (j / points for j in range(1, points)):
        between = [p + part * d for p, d in zip(before.params, step, strict=True)]
        grads = _point(value_and_grad, before.spec.unflatten(between)).grads
        found.append(_length(_differences(grads, before.grads)) / (part * length))
    return math.nan if any(map(math.isnan, found)) else max(found)


def _differences(leaves: Leaves, others: Leaves) -> Leaves:
    with np.errstate(all="ignore"):
        return [x - y for x, y in zip(leaves, others, strict=True)]


def _length(leaves: Leaves) -> float:
    return float(_array.to_numpy(global_norm(leaves)))


# --- the line -----------------------------------------------------------------------------------------------


def _fitted(gradient_norm: Values, smoothness: Values, fit: str) -> tuple[float, float]:
    """L0 and L1 of the points whose smoothness is finite."""
    use = np.isfinite(gradient_norm) & np.isfinite(smoothness)
    x, y = gradient_norm[use], smoothness[use]
    if not x.size:
        return math.nan, math.nan
    x, y = x[y > 0.0], y[y > 0.0]
    if not x.size:
        return 0.0, 0.0
    unit_x, unit_y = float(np.max(x)) or 1.0, float(np.max(y))
    l0, l1 = (_bound if fit == "bound" else _least_squares)(x / unit_x, y / unit_y)
    return float(l0 * unit_y), float(l1 * unit_y / unit_x)


def _bound(x: Values, y: Values) -> tuple[float, float]:
    """Line of the least mean ratio to the points among those above all of them.

    The ratio is linear in both constants, so the best line is a corner of what is allowed: an edge of the upper hull
    of the points, the level line, or the line through the origin.
    """
    lines = [(1.0, 0.0)]
    if np.all(x > 0.0):
        lines.append((0.0, float(np.max(y / x))))
    hull = _upper_hull(x, y)
    for (x0, y0), (x1, y1) in itertools.pairwise(hull):
        slope = (y1 - y0) / (x1 - x0)
        lines.append((y0 - slope * x0, slope))
    price_l0, price_l1 = float(np.mean(1.0 / y)), float(np.mean(x / y))
    allowed = [line for line in lines if min(line) >= 0.0]
    return min(allowed, key=lambda line: line[0] * price_l0 + line[1] * price_l1)


def _upper_hull(x: Values, y: Values) -> list[tuple[float, float]]:
    """Corners of the least concave line above the points, from left to right."""
    order = np.lexsort((y, x))
    hull: list[tuple[float, float]] = []
    for corner in zip(x[order].tolist(), y[order].tolist(), strict=True):
        while hull and (hull[-1][0] == corner[0] or _is_below(hull, corner)):
            hull.pop()
        hull.append(corner)
    return hull


def _is_below(hull: list[tuple[float, float]], corner: tuple[float, float]) -> bool:
    """Whether the last corner lies on or below the line from the one before it to a new one."""
    if len(hull) < 2:
        return False
    (x0, y0), (x1, y1), (x2, y2) = hull[-2], hull[-1], corner
    return (y1 - y0) * (x2 - x0) <= (y2 - y0) * (x1 - x0)


def _least_squares(x: Values, y: Values) -> tuple[float, float]:
    """Line of the least relative squares whose constants are not negative."""
    columns = np.stack([1.0 / y, x / y], axis=1)
    sizes = np.linalg.norm(columns, axis=0)
    sizes[sizes == 0.0] = 1.0
    both = np.linalg.lstsq(columns / sizes, np.ones(len(y)))[0] / sizes
    if np.min(both) >= 0.0:
        return float(both[0]), float(both[1])
    alone = columns.sum(axis=0) / sizes**2
    errors = np.linalg.norm(columns * alone - 1.0, axis=0)
    return (float(alone[0]), 0.0) if errors[0] <= errors[1] else (0.0, float(alone[1]))
