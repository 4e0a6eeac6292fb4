"""Layers straight from their formulas, entry by entry, with gradients through whole Jacobians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mpmath import mp

_DIGITS = 60
_Matrix = Sequence[Sequence[float]]


class ExactLayer(NamedTuple):
    """The exact value of a layer and the gradients of ``sum(dy * value)``.

    Parameters
    ----------
    value, dx : list of lists of mpf
    params : dict
        The gradient of each parameter.

    Examples
    --------
    >>> from zlpr.reference import dropout
    >>> print(dropout([[3.0]], [[2.0]], [[1.0]]).dx[0][0])
    2.0
    """

    value: list[list[Any]]
    dx: list[list[Any]]
    params: dict[str, Any]


def dense(x: _Matrix, weight: _Matrix, bias: Sequence[float], dy: _Matrix) -> ExactLayer:
    """Rows of x times the weight, plus the bias.

    Parameters
    ----------
    x, weight, bias, dy : (n, d_in), (d_in, d_out), (d_out,) and (n, d_out) numbers

    Returns
    -------
    ExactLayer

    Examples
    --------
    >>> from zlpr.reference import dense
    >>> print(dense([[2.0]], [[3.0]], [1.0], [[1.0]]).value[0][0])
    7.0
    """
    with mp.workdps(_DIGITS):
        inputs, outputs, rows = range(len(weight)), range(len(bias)), range(len(x))
        exact_x, exact_w, exact_dy = _exact(x), _exact(weight), _exact(dy)
        value = [
            [mp.fsum(exact_x[r][i] * exact_w[i][j] for i in inputs) + mp.mpf(bias[j]) for j in outputs]
            for r in rows
        ]
        dx = [[mp.fsum(exact_dy[r][j] * exact_w[i][j] for j in outputs) for i in inputs] for r in rows]
        dweight = [[mp.fsum(exact_x[r][i] * exact_dy[r][j] for r in rows) for j in outputs] for i in inputs]
        return ExactLayer(
            value, dx, {"weight": dweight, "bias": [mp.fsum(row[j] for row in exact_dy) for j in outputs]}
        )


def batch_norm(
    x: _Matrix, dy: _Matrix, params: dict[str, Sequence[float]] | None = None, epsilon: float = 1e-5
) -> ExactLayer:
    """Columns of x, normalised by their own statistics or by given ones, times the scale, plus the shift.

    Parameters
    ----------
    x, dy : (n, d) numbers
    params : dict, optional
        ``scale`` and ``shift``, ``mean`` and ``variance``, each of d numbers.
    epsilon : float

    Returns
    -------
    ExactLayer
        With the gradients of the parameters that were given, and of scale and shift in any case.

    Examples
    --------
    >>> from zlpr.reference import batch_norm
    >>> print(batch_norm([[1.0], [3.0]], [[0.0], [0.0]], epsilon=3.0).value[1][0])
    0.5
    """
    given = params or {}
    with mp.workdps(_DIGITS):
        columns = [
            _normalised_column(
                [mp.mpf(row[j]) for row in x],
                [mp.mpf(row[j]) for row in dy],
                {name: mp.mpf(values[j]) for name, values in given.items()},
                mp.mpf(epsilon),
            )
            for j in range(len(x[0]))
        ]
    value = [[column[0][i] for column in columns] for i in range(len(x))]
    dx = [[column[1][i] for column in columns] for i in range(len(x))]
    return ExactLayer(value, dx, {name: [column[2][name] for column in columns] for name in columns[0][2]})


def _normalised_column(
    x: list[Any], dy: list[Any], params: dict[str, Any], epsilon: Any
) -> tuple[list[Any], list[Any], dict[str, Any]]:
    n, fixed = len(x), "mean" in params
    mean = params["mean"] if fixed else mp.fsum(x) / n
    variance = params["variance"] if fixed else mp.fsum((z - mean) ** 2 for z in x) / n
    scale, spread = params.get("scale", mp.mpf(1)), mp.sqrt(variance + epsilon)
    normal = [(z - mean) / spread for z in x]
    value = [scale * z + params.get("shift", 0) for z in normal]

    def jacobian(i: int, j: int) -> Any:
        """Derivative of the value i by the entry j, through mean and variance."""
        own = mp.mpf(i == j)
        if fixed:
            return scale * own / spread
        dmean, dvariance = mp.mpf(1) / n, 2 * (x[j] - mean) / n
        return scale * ((own - dmean) / spread - (x[i] - mean) * dvariance / (2 * spread**3))

    dx = [mp.fsum(dy[i] * jacobian(i, j) for i in range(n)) for j in range(n)]
    gradients = {
        "scale": mp.fsum(d * z for d, z in zip(dy, normal, strict=True)),
        "shift": mp.fsum(dy),
    }
    if fixed:
        gradients["mean"] = -mp.fsum(d * scale / spread for d in dy)
        gradients["variance"] = -mp.fsum(
            d * scale * (z - mean) / (2 * spread**3) for d, z in zip(dy, x, strict=True)
        )
    return value, dx, gradients


def dropout(x: _Matrix, mask: _Matrix, dy: _Matrix) -> ExactLayer:
    """Entries of x times those of the mask, 0 where the mask is 0.

    Parameters
    ----------
    x, mask, dy : (n, d) numbers

    Returns
    -------
    ExactLayer

    Examples
    --------
    >>> from zlpr.reference import dropout
    >>> print(dropout([[float("inf")]], [[0.0]], [[1.0]]).value[0][0])
    0.0
    """
    with mp.workdps(_DIGITS):
        value, dx = (
            [[mp.mpf(z) * mp.mpf(m) if m else mp.mpf(0) for z, m in zip(*pair, strict=True)] for pair in rows]
            for rows in (zip(x, mask, strict=True), zip(dy, mask, strict=True))
        )
    return ExactLayer(value, dx, {})


def _exact(rows: _Matrix) -> list[list[Any]]:
    return [[mp.mpf(entry) for entry in row] for row in rows]
