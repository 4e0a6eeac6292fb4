"""What the optimizers share: averages that differ in the weight of the newest term, and the checks of arguments.

An average moves by ``v += c_t (x - v)``. Its weight ``c_t`` is a function of the step t, counted from 1, and
``c_1 = 1`` makes the first average the first term, whatever it began with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr._treewalk import Tree
from zlpr.optim._stage import Number

Schedule: TypeAlias = Callable[[Any], Any]
"""The learning rate as a function of the number of finished steps: 0 at the first step."""

Weight: TypeAlias = Callable[[Number], Number]
"""The weight of the newest term of an average, as a function of the step, counted from 1."""

_LEAST_EPS = 1.2e-38  # below float32's smallest normal number, eps may be zero to the kernel


class Momentum(NamedTuple):
    """What a momentum keeps: the decayed sum, or the average, of the updates."""

    m: Tree


class Moments(NamedTuple):
    """What Adam and AdaX keep: the decayed sum of the gradients, and the average of their squares.

    The sum is the paper's m over 1 - b1, which saves a pass over memory: the factor is in the step size. The average is
    corrected for its bias.
    """

    m: Tree
    v: Tree


# --- the weights --------------------------------------------------------------------------------------------


def exponential_weight(decay: float) -> Weight:
    """Adam: (1 - b) / (1 - b^t), the exponential average corrected for its bias; 1/t at b = 1."""
    if decay == 1.0:
        return plain_weight
    return lambda t: (1.0 - decay) / one_minus_power(decay, t)


def growing_weight(growth: float) -> Weight:
    """AdaX: b / ((1 + b)^t - 1), in which the oldest term weighs most; 1/t at b = 0."""
    if growth == 0.0:
        return plain_weight
    return lambda t: growth / expm1(t * math.log1p(growth))


def power_weight(exponent: float) -> Weight:
    """AdaFactor: t^-a."""
    return lambda t: t**-exponent


def plain_weight(t: Number) -> Number:
    """Weigh all terms alike: 1/t."""
    return 1.0 / t


def constant_weight(weight: float) -> Weight:
    """RMSprop: always the same, so that the average begins at 0."""
    return lambda t: weight


def one_minus_power(base: float, t: Number) -> Number:
    """Compute 1 - base^t without cancellation."""
    return 1.0 if base == 0.0 else -expm1(t * math.log(base))


def expm1(x: Number) -> Number:
    """Compute exp(x) - 1 of a number or a 0-d array; infinite, not an error, where it overflows."""
    if isinstance(x, float):
        return math.expm1(x) if x < 700.0 else math.inf
    return _array.namespace(x).expm1(x)


def square_root(x: Number) -> Number:
    """Compute the root of a number or a 0-d array."""
    return _array.namespace(x).sqrt(x) if _array.is_array(x) else math.sqrt(x)


# --- the averages -------------------------------------------------------------------------------------------


def moved(average: Array, x: Array, weight: Number) -> Array:
    """Move an average by `weight` towards `x`, in place where the library allows it."""
    return _ops.move_(average, x, weight)


def moved_to_square(average: Array, x: Array, weight: Number) -> Array:
    """Move an average by `weight` towards the square of `x`, in place where the library allows it."""
    return _ops.move_to_square_(average, x, weight)


def quotient(x: Array, root: Array, *, may_vanish: bool) -> Array:
    """Divide by a temporary; 0 where that is 0."""
    if may_vanish:
        root = _array.namespace(root).where(root == 0.0, math.inf, root)
    return x / root


def may_vanish(eps: float) -> bool:
    """Whether a denominator with this eps may be 0."""
    return eps < _LEAST_EPS


# --- arguments ----------------------------------------------------------------------------------------------


def learning_rate(lr: float | Schedule, name: str = "lr") -> Schedule:
    """Return the schedule, or the constant one."""
    if not callable(lr):
        rate = not_negative(name, lr, " or a schedule")
        return lambda count: rate
    schedule = lr

    def scheduled(count: Number) -> Number:
        # Eager steps need a Python number: a schedule may well return a NumPy or JAX scalar.
        return schedule(count) if _array.is_array(count) else float(schedule(count))

    return scheduled


def fraction(name: str, value: float) -> float:
    """Return a number that must be in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)


def not_negative(name: str, value: float, alternative: str = "") -> float:
    """Return a number that must be finite and at least 0, as a Python float, which promotes nothing."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number that is not negative{alternative}, got {value!r}")
    return float(value)


def finite(name: str, value: float) -> float:
    """Return a number that must be finite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def convention_of(value: str, known: tuple[str, ...]) -> str:
    """Return a convention that must be known."""
    if value not in known:
        raise ValueError(f"convention must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value
