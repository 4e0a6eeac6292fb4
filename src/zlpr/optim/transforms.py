"""The optimizers: SGD, and the family of Adam and AdaX, with decoupled weight decay or without.

Adam and AdaX keep the same two averages, ``m`` of the gradient and ``v`` of its square, and differ in one
function of the step: how far ``v`` moves towards the newest square. The algebra, and why ``v`` is kept
corrected for its bias, is in ``docs/derivations/optim.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from zlpr import _array
from zlpr._array import Array
from zlpr._treewalk import Tree
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered

Schedule: TypeAlias = Callable[[Any], Any]
"""The learning rate as a function of the number of finished steps: 0 at the first step."""

Weight: TypeAlias = Callable[[Number], Number]
"""The weight of the newest square in ``v``, as a function of the step, counted from 1."""

_LEAST_EPS = 1.2e-38  # below float32's smallest normal number, eps may be zero to the kernel


class Momentum(NamedTuple):
    """What SGD with momentum keeps: the decayed sum of the gradients."""

    m: Tree


class Moments(NamedTuple):
    """What Adam and AdaX keep: the average gradient, and the bias-corrected average of its square."""

    m: Tree
    v: Tree


@remembered
def sgd(lr: float | Schedule, *, momentum: float = 0.0, nesterov: bool = False) -> Transform:
    r"""Stochastic gradient descent, with momentum if asked for.

    .. math:: m \leftarrow \mu m + g, \qquad u = -\eta\, m
        \quad\text{or, after Nesterov,}\quad u = -\eta\,(g + \mu m)

    Parameters
    ----------
    lr : float or callable
        Learning rate η > 0, or a schedule of the number of finished steps.
    momentum : float
        μ in [0, 1); with 0 nothing is kept.
    nesterov : bool
        Whether to look one step ahead.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range, or `nesterov` is asked for without momentum.

    References
    ----------
    Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013; the
    arithmetic is that of ``torch.optim.SGD``, in which the gradient enters `m` with weight 1.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = sgd(0.1, momentum=0.5)
    >>> params, state = np.array([1.0]), optimizer.init(np.array([1.0]))
    >>> for _ in range(2):
    ...     params, state = optimizer.step(params, np.array([2.0]), state)
    >>> print(params)  # 1 - 0.1 * 2 - 0.1 * 3
    [0.5]
    """
    rate = _learning_rate(lr)
    momentum = _fraction("momentum", momentum)
    if nesterov and momentum == 0.0:
        raise ValueError("nesterov needs a momentum above 0, got momentum=0.0")

    def coefficients(count: Number) -> Numbers:
        return (rate(count),)

    def descend(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        (eta,) = numbers
        return g * -eta, slots

    def descend_with_momentum(
        g: Array, p: Array, slots: Momentum, numbers: Numbers
    ) -> tuple[Array, Momentum]:
        (eta,), (m,) = numbers, slots
        m *= momentum
        m += g
        if not nesterov:
            return m * -eta, Momentum(m)
        u = m * momentum
        u += g
        u *= -eta
        return u, Momentum(m)

    if momentum == 0.0:
        return Transform((Stage(descend, NoSlots, coefficients),))
    return Transform((Stage(descend_with_momentum, Momentum, coefficients),))


@remembered
def adam(lr: float | Schedule, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    r"""Adam.

    .. math:: m \leftarrow m + (1 - β_1)(g - m), \quad \hat v \leftarrow \hat v + c_t (g^2 - \hat v), \quad
        c_t = \frac{1 - β_2}{1 - β_2^t}, \quad u = -\frac{η}{1 - β_1^t} \frac{m}{\sqrt{\hat v} + ε}

    Parameters
    ----------
    lr : float or callable
        Learning rate η > 0, or a schedule of the number of finished steps.
    b1, b2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        ε ≥ 0, outside the root.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The second moment is kept corrected for its bias, which is the same algebra as in the paper. An entry
    whose second moment is zero takes no step, even with ``eps=0``. A gradient whose square overflows (1.8e19
    in float32) spoils its entry for good; `clip_by_global_norm` in front prevents that.

    References
    ----------
    Kingma and Ba, Adam: a method for stochastic optimization, arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = adam(0.1, eps=0.0)
    >>> params = np.array([1.0, -2.0])
    >>> params, state = optimizer.step(params, np.array([4.0, -32.0]), optimizer.init(params))
    >>> print(params)  # the first step is lr * sign(g)
    [ 0.9 -1.9]
    """
    return _adaptive(lr, b1, eps, _adam_weight(_fraction("b2", b2)), corrected=True)


@remembered
def adamw(
    lr: float | Schedule, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-2
) -> Transform:
    r"""Adam with decoupled weight decay: the update of `adam`, and :math:`-ηλθ`.

    Parameters
    ----------
    lr : float or callable
        Learning rate η > 0, or a schedule of the number of finished steps.
    b1, b2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        ε ≥ 0, outside the root.
    weight_decay : float
        λ ≥ 0; it is multiplied by the learning rate, as in PyTorch and optax.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, arXiv:1711.05101, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = adamw(0.1, weight_decay=0.5)
    >>> params = np.array([2.0])
    >>> params, state = optimizer.step(params, np.array([0.0]), optimizer.init(params))
    >>> print(params)  # 2 - 0.1 * 0.5 * 2
    [1.9]
    """
    return _adaptive(
        lr, b1, eps, _adam_weight(_fraction("b2", b2)), corrected=True, weight_decay=weight_decay
    )


@remembered
def adax(lr: float | Schedule, *, b1: float = 0.9, b2: float = 1e-4, eps: float = 1e-12) -> Transform:
    r"""AdaX: Adam with a long memory, whose second moment settles.

    .. math:: m \leftarrow m + (1 - β_1)(g - m), \quad \hat v \leftarrow \hat v + c_t (g^2 - \hat v), \quad
        c_t = \frac{β_2}{(1 + β_2)^t - 1}, \quad u = -η \frac{m}{\sqrt{\hat v} + ε}

    Parameters
    ----------
    lr : float or callable
        Learning rate η > 0, or a schedule of the number of finished steps. The first steps are shorter than
        Adam's by the factor 1 - β₁, because `m` is not corrected for its bias.
    b1 : float
        Decay of the average of the gradient, in [0, 1).
    b2 : float
        Growth β₂ of the weights of the squares, in [0, 1); 0 is the plain average of all squares.
    eps : float
        ε ≥ 0, outside the root.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    ε stands outside the root, as in the authors' code. Their code adds it to the root of the uncorrected
    moment, which makes it :math:`ε / \sqrt{(1+β_2)^t - 1}` here; the post writes it inside the root. With ε
    = 1e-12 the three agree wherever the gradients are not that small themselves.

    The published recursion :math:`v \leftarrow (1 + β_2) v + β_2 g^2` overflows float32 after some 880,000
    steps. Here the corrected :math:`\hat v` is kept, which never does; the two are the same algebra. As t
    grows, c falls below the rounding of `v`, and AdaX becomes SGD with a fixed rate for each entry: that is
    the method, not an accident.

    References
    ----------
    Li et al., AdaX: adaptive gradient descent with exponential long term memory, arXiv:2004.09740; the
    authors' code is ``switchablenorms/adax`` on GitHub. Su, https://kexue.fm/archives/7387.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = adax(0.1, eps=0.0)
    >>> params = np.array([1.0, -2.0])
    >>> params, state = optimizer.step(params, np.array([4.0, -32.0]), optimizer.init(params))
    >>> print(params)  # the first step is (1 - b1) * lr * sign(g)
    [ 0.99 -1.99]
    """
    return _adaptive(lr, b1, eps, _adax_weight(_fraction("b2", b2)), corrected=False)


@remembered
def adaxw(
    lr: float | Schedule, *, b1: float = 0.9, b2: float = 1e-4, eps: float = 1e-12, weight_decay: float = 5e-2
) -> Transform:
    r"""AdaX with decoupled weight decay: the update of `adax`, and :math:`-ηλθ`.

    Parameters
    ----------
    lr : float or callable
        Learning rate η > 0, or a schedule of the number of finished steps.
    b1 : float
        Decay of the average of the gradient, in [0, 1).
    b2 : float
        Growth β₂ of the weights of the squares, in [0, 1).
    eps : float
        ε ≥ 0, outside the root (see `adax`).
    weight_decay : float
        λ ≥ 0; it is multiplied by the learning rate.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Li et al., AdaX: adaptive gradient descent with exponential long term memory, arXiv:2004.09740, AdaX-W.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = adaxw(0.1, weight_decay=0.5, eps=0.0)
    >>> params = np.array([2.0])
    >>> params, state = optimizer.step(params, np.array([3.0]), optimizer.init(params))
    >>> print(params)  # 2 - 0.1 * 0.5 * 2 - 0.1 * 0.1
    [1.89]
    """
    return _adaptive(
        lr, b1, eps, _adax_weight(_fraction("b2", b2)), corrected=False, weight_decay=weight_decay
    )


def _adaptive(
    lr: float | Schedule,
    b1: float,
    eps: float,
    weight: Weight,
    *,
    corrected: bool,
    weight_decay: float = 0.0,
) -> Transform:
    """Build one of the family: `weight` moves v, `corrected` says whether m is divided by 1 - b1^t."""
    rate = _learning_rate(lr)
    b1 = _fraction("b1", b1)
    eps, weight_decay = _not_negative("eps", eps), _not_negative("weight_decay", weight_decay)

    def coefficients(count: Number) -> Numbers:
        t, eta = count + 1, rate(count)
        return weight(t), eta / _one_minus_power(b1, t) if corrected else eta, eta * weight_decay

    def kernel(g: Array, p: Array, slots: Moments, numbers: Numbers) -> tuple[Array, Moments]:
        (c, scale, decay), (m, v) = numbers, slots
        change = g - m
        change *= 1.0 - b1
        m += change
        change = g * g
        change -= v
        change *= c
        v += change
        u = _normalised(m, v, eps)
        u *= -scale
        if weight_decay:
            u -= p * decay
        return u, Moments(m, v)

    return Transform((Stage(kernel, Moments, coefficients),))


def _normalised(m: Array, v: Array, eps: float) -> Array:
    """Divide m by sqrt(v) + eps; 0 where that is 0."""
    xp = _array.namespace(v)
    root = xp.sqrt(v)
    root += eps
    if eps < _LEAST_EPS:
        root = xp.where(root == 0.0, math.inf, root)
    return m / root


def _adam_weight(b2: float) -> Weight:
    return lambda t: (1.0 - b2) / _one_minus_power(b2, t)


def _adax_weight(b2: float) -> Weight:
    if b2 == 0.0:
        return lambda t: 1.0 / t
    return lambda t: b2 / _expm1(t * math.log1p(b2))


def _one_minus_power(base: float, t: Number) -> Number:
    """Compute 1 - base^t without cancellation."""
    return 1.0 if base == 0.0 else -_expm1(t * math.log(base))


def _expm1(x: Number) -> Number:
    """Compute exp(x) - 1 of a number or a traced 0-d array; infinite, not an error, where it overflows."""
    if isinstance(x, float):
        return math.expm1(x) if x < 700.0 else math.inf
    return _array.namespace(x).expm1(x)


def _learning_rate(lr: float | Schedule) -> Schedule:
    if not callable(lr):
        if not 0.0 < lr < math.inf:
            raise ValueError(f"lr must be a positive finite number or a schedule, got {lr!r}")
        rate = float(lr)  # a NumPy float64 would promote float32 arrays
        return lambda count: rate

    def scheduled(count: Number) -> Number:
        # Eager steps need a Python number: a schedule may well return a NumPy or JAX scalar.
        return lr(count) if _array.is_array(count) else float(lr(count))

    return scheduled


def _fraction(name: str, value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return float(value)


def _not_negative(name: str, value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number that is not negative, got {value!r}")
    return float(value)
