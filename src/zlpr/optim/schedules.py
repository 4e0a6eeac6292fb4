"""Learning rates that depend on the step: functions of the number of finished steps, 0 at the first one.

Names and meanings of the arguments are those of optax. A step may be a Python int, or a 0-d array inside a
trace.

Examples
--------
>>> from zlpr.optim import schedules
>>> schedules.linear(1.0, 0.0, 10)(5)
0.5
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from zlpr import _array

Schedule: TypeAlias = Callable[[Any], Any]

__all__ = ["constant", "cosine", "exponential", "linear", "warmup_cosine"]


def constant(value: float) -> Schedule:
    """Return the same `value` at every step.

    Parameters
    ----------
    value : float
        The learning rate.

    Returns
    -------
    callable
        ``step -> value``.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return lambda step: value


def linear(init_value: float, end_value: float, transition_steps: int) -> Schedule:
    """Go from `init_value` to `end_value` in a straight line and stay there.

    Parameters
    ----------
    init_value, end_value : float
        The learning rates at step 0 and from step `transition_steps` on.
    transition_steps : int
        Length of the line, at least 1.

    Returns
    -------
    callable
        ``step -> learning rate``.

    Raises
    ------
    ValueError
        If `transition_steps` is not positive.

    Examples
    --------
    >>> [linear(1.0, 0.0, 4)(step) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    _require_positive("transition_steps", transition_steps)

    def schedule(step: Any) -> Any:
        done = _progress(step, transition_steps)
        return init_value * (1.0 - done) + end_value * done

    return schedule


def cosine(init_value: float, decay_steps: int, alpha: float = 0.0) -> Schedule:
    r"""Fall along half a cosine, :math:`η_0 ((1 - α)\tfrac12 (1 + \cos(π t / T)) + α)`, and stay there.

    Parameters
    ----------
    init_value : float
        The learning rate at step 0.
    decay_steps : int
        T, at least 1.
    alpha : float
        What remains, as a part of `init_value`.

    Returns
    -------
    callable
        ``step -> learning rate``.

    Raises
    ------
    ValueError
        If `decay_steps` is not positive.

    References
    ----------
    Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, arXiv:1608.03983, equation 5.

    Examples
    --------
    >>> [round(cosine(1.0, 4)(step), 3) for step in (0, 1, 2, 4, 9)]
    [1.0, 0.854, 0.5, 0.0, 0.0]
    """
    _require_positive("decay_steps", decay_steps)

    def schedule(step: Any) -> Any:
        wave = 0.5 * (1.0 + _cos(math.pi * _progress(step, decay_steps)))
        return init_value * ((1.0 - alpha) * wave + alpha)

    return schedule


def warmup_cosine(
    init_value: float, peak_value: float, warmup_steps: int, decay_steps: int, end_value: float = 0.0
) -> Schedule:
    """Rise in a straight line to `peak_value`, then fall along half a cosine to `end_value`.

    Parameters
    ----------
    init_value, peak_value, end_value : float
        The learning rates at step 0, at step `warmup_steps` and from step `decay_steps` on.
    warmup_steps : int
        Length of the rise, at least 1.
    decay_steps : int
        Length of the whole, the rise included; more than `warmup_steps`.

    Returns
    -------
    callable
        ``step -> learning rate``.

    Raises
    ------
    ValueError
        If `warmup_steps` is not positive, or `decay_steps` does not exceed it.

    Examples
    --------
    >>> [round(warmup_cosine(0.0, 1.0, 2, 6)(step), 3) for step in (0, 1, 2, 4, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _require_positive("warmup_steps", warmup_steps)
    if decay_steps <= warmup_steps:
        raise ValueError(f"decay_steps must be more than warmup_steps={warmup_steps}, got {decay_steps!r}")
    rise = linear(init_value, peak_value, warmup_steps)
    fall = cosine(peak_value - end_value, decay_steps - warmup_steps)

    def schedule(step: Any) -> Any:
        if _array.is_array(step):
            fallen = fall(step - warmup_steps) + end_value
            return _array.namespace(step).where(step < warmup_steps, rise(step), fallen)
        return rise(step) if step < warmup_steps else fall(step - warmup_steps) + end_value

    return schedule


def exponential(init_value: float, transition_steps: int, decay_rate: float) -> Schedule:
    """Fall by the factor `decay_rate` every `transition_steps` steps, smoothly.

    Parameters
    ----------
    init_value : float
        The learning rate at step 0.
    transition_steps : int
        At least 1.
    decay_rate : float
        Positive.

    Returns
    -------
    callable
        ``step -> init_value * decay_rate ** (step / transition_steps)``.

    Raises
    ------
    ValueError
        If `transition_steps` or `decay_rate` is not positive.

    Examples
    --------
    >>> [round(exponential(1.0, 10, 0.5)(step), 3) for step in (0, 5, 10, 20)]
    [1.0, 0.707, 0.5, 0.25]
    """
    _require_positive("transition_steps", transition_steps)
    _require_positive("decay_rate", decay_rate)
    return lambda step: init_value * decay_rate ** (_array.as_real(step) / transition_steps)


def _progress(step: Any, steps: int) -> Any:
    """Part of `steps` that is done, in [0, 1]."""
    if _array.is_array(step):
        return _array.namespace(step).clip(_array.as_real(step) / steps, 0.0, 1.0)
    return min(max(step / steps, 0.0), 1.0)


def _cos(x: Any) -> Any:
    return _array.namespace(x).cos(x) if _array.is_array(x) else math.cos(x)


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")
