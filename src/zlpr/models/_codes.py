"""What stands between the outputs of an encoder and the codes, and the statistics it needs after training."""

from __future__ import annotations

import math
from typing import Any

from zlpr import _array, _ops, activations, nn
from zlpr._array import Array
from zlpr.rules import rule
from zlpr.rules._rule import Pullback

LOG_VARIANCES = (-30.0, 20.0)  # beyond, the exponential is of no use, and the gradient is 0
CODE_EPSILON = 1e-8  # of the batch norm of codes: their variance is v / (v + epsilon)

_STATISTICS = ("mean", "variance", "log_mean")


def normal_statistics(x: Array) -> dict[str, Array]:
    """Mean and variance of the columns, as `zlpr.nn.batch_norm` takes them."""
    (statistics,) = nn.with_statistics(_NORMALISED, ({},), x)
    return dict(statistics)


_NORMALISED = nn.sequential(nn.batch_norm)


def without_statistics(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters to train: what `normal_statistics` and the like have given is left out."""
    codes = {name: value for name, value in params.get("codes", {}).items() if name not in _STATISTICS}
    return {name: value for name, value in {**params, "codes": codes}.items() if name != "codes" or codes}


@rule(wrt=("params", "x"))
def bounded(params: dict[str, Array], x: Array, *, needs: tuple[str, ...] = ()) -> tuple[Array, Pullback]:
    """Means as they are, and log-variances within bounds; `params` is empty."""
    mean, raw = halves(x)
    log_variance, inside = within_bounds(raw)

    def bounded_pullback(dcodes: Array) -> tuple[Any, ...]:
        dmean, dlog = halves(dcodes)
        every = {"params": {}, "x": joined(dmean, inside * dlog)}
        return tuple(every[name] for name in needs)

    return joined(mean, log_variance), bounded_pullback


@rule(wrt=("params", "x"))
def balanced(
    params: dict[str, Array], x: Array, *, tau: float, needs: tuple[str, ...] = ()
) -> tuple[Array, Pullback]:
    r"""Means of mean square :math:`a = \tau + (1 - \tau) \sigma(\theta)`, and variances of mean :math:`1 - a`.

    `params` has ``scale`` :math:`\theta`, (d,), and after training the statistics that take the place of the batch's:
    ``mean`` and ``variance`` of the means, and ``log_mean``, the logarithm of the mean of the variances. No gradient
    goes to these.
    """
    raw_mean, raw_log = halves(x)
    theta, n = params["scale"], x.shape[0]
    xp = _array.namespace(x)
    statistics = {name: params[name] for name in ("mean", "variance") if name in params}
    normal, to_mean = nn.batch_norm.vjp(statistics, raw_mean, epsilon=CODE_EPSILON, argnums="x")
    share, dshare = activations.sigmoid.value_and_grad(theta)
    size = xp.sqrt(tau + (1 - tau) * share)
    level = math.log1p(-tau) - activations.softplus(theta)
    near, inside = within_bounds(raw_log)
    log_mean = params["log_mean"] if "log_mean" in params else log_mean_exp(raw_log)
    log_variance = near + (level - log_mean)

    def balanced_pullback(dcodes: Array) -> tuple[Any, ...]:
        dmean, dlog = halves(dcodes)
        total = _column_sum(dlog)
        along = _column_sum(dmean * normal)
        of_batch = "log_mean" not in params
        dnear = dlog - xp.exp(near - log_mean) * (total / n) if of_batch else dlog
        dtheta = along * ((1 - tau) * dshare / (2 * size)) - total * share
        every = {
            "params": {
                name: dtheta if name == "scale" else xp.zeros_like(value) for name, value in params.items()
            },
            "x": joined(to_mean(dmean * size), inside * dnear),
        }
        return tuple(every[name] for name in needs)

    return joined(normal * size, log_variance), balanced_pullback


def halves(x: Array) -> tuple[Array, Array]:
    """The first and the second half of the columns."""
    d = x.shape[1] // 2
    return x[:, :d], x[:, d:]


def joined(left: Array, right: Array) -> Array:
    """Both side by side."""
    return _array.namespace(left).concat([left, right], axis=1)


def without_shift(dencoder: Any, d: int) -> Any:
    """The gradients of an encoder whose first d outputs are normalised next: a shift of these changes nothing.

    The rounding error in place of that 0 would grow in an optimizer that divides by the gradient's own size.
    """
    *others, last = dencoder
    bias = last["bias"]
    xp = _array.namespace(bias)
    return (*others, {**last, "bias": xp.concat([xp.zeros_like(bias[:d]), bias[d:]])})


def log_mean_exp(raw_log: Array) -> Array:
    """Logarithm of the mean over the rows of the exponential, within bounds."""
    xp = _array.namespace(raw_log)
    return xp.log(_column_sum(xp.exp(within_bounds(raw_log)[0])) / raw_log.shape[0])


def within_bounds(raw: Array) -> tuple[Array, Array]:
    """Values moved into the bounds, and 1 where they were there, 0 elsewhere."""
    low, high = LOG_VARIANCES
    inside = _array.namespace(raw).astype((raw >= low) & (raw <= high), raw.dtype)
    return _ops.clip(raw, low, high), inside


def _column_sum(x: Array) -> Array:
    return _ops.row_sum(x.T)
