"""The simple transforms: gradient descent, scaling, decay, and an average of the parameters.

Most optimizers are made of these and of one stage of their own. The algebra is in ``docs/derivations/optim.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from zlpr import _array
from zlpr._array import Array
from zlpr._treewalk import Tree
from zlpr.optim import _family
from zlpr.optim._chain import NoSlots, Number, Numbers, Stage, Transform, remembered
from zlpr.optim._family import Momentum, Schedule


class Average(NamedTuple):
    """What `ema` keeps: an average of the parameters after each step."""

    average: Tree


@remembered
def sgd(
    lr: float | Schedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    dampening: float = 0.0,
    convention: Literal["paper", "torch", "optax"] = "torch",
) -> Transform:
    r"""Stochastic gradient descent, with momentum if asked for.

    .. math:: m \leftarrow \mu m + g, \qquad u = -\eta\, m
        \quad\text{or, after Nesterov,}\quad u = -\eta\,(g + \mu m)

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    momentum : float
        μ in [0, 1); with 0 nothing is kept.
    nesterov : bool
        Whether to look one step ahead.
    dampening : float
        In [0, 1): the gradient enters `m` with the weight 1 - `dampening`, but the first one with 1, as in PyTorch.
    convention : {"paper", "torch", "optax"}
        PyTorch and optax do the same. In the paper `m` holds steps, :math:`m \leftarrow \mu m - \eta g`, which
        differs when the learning rate changes.

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
    Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013,
    equations 1 to 4.

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
    rate = _family.learning_rate(lr)
    _family.convention_of(convention, ("paper", "torch", "optax"))
    descend = scaling(lambda count: -rate(count))
    if momentum == 0.0 and not nesterov:
        return Transform((descend,))
    push = trace(momentum, nesterov=nesterov, dampening=dampening)
    return Transform((descend, push) if convention == "paper" else (push, descend))


@remembered
def scale(step_size: float) -> Transform:
    """Multiply all updates by one number.

    Parameters
    ----------
    step_size : float
        The number; -0.1 makes gradients into steps of descent.

    Returns
    -------
    Transform
        It keeps nothing.

    Raises
    ------
    ValueError
        If the number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> params = np.array([1.0])
    >>> transform = scale(-0.25)
    >>> transform.step(params, np.array([2.0]), transform.init(params))[0]
    array([0.5])
    """
    step_size = _family.finite("step_size", step_size)
    return Transform((scaling(lambda count: step_size),))


@remembered
def scale_by_schedule(step_size_fn: Schedule) -> Transform:
    """Multiply all updates by a function of the number of finished steps.

    Parameters
    ----------
    step_size_fn : callable
        ``step -> number``; 0 at the first step. Nothing changes its sign: ``chain(..., scale(-1.0))`` does.

    Returns
    -------
    Transform
        It keeps nothing.

    Raises
    ------
    TypeError
        If the schedule is not callable.

    Examples
    --------
    >>> import numpy as np
    >>> params = np.array([1.0])
    >>> transform = scale_by_schedule(lambda step: -0.5 / (1 + step))
    >>> state = transform.init(params)
    >>> for _ in range(2):
    ...     params, state = transform.step(params, np.array([1.0]), state)
    >>> print(params)  # 1 - 0.5 - 0.25
    [0.25]
    """
    if not callable(step_size_fn):
        raise TypeError(f"step_size_fn must be callable, not {type(step_size_fn).__qualname__}")
    return Transform((scaling(_family.learning_rate(step_size_fn)),))


@remembered
def set_to_zero() -> Transform:
    """Replace all updates by zeros: the parameters of a group that should not move.

    Returns
    -------
    Transform
        It keeps nothing.

    Examples
    --------
    >>> import numpy as np
    >>> params = np.array([1.0])
    >>> set_to_zero().step(params, np.array([np.nan]), set_to_zero().init(params))[0]
    array([1.])
    """

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return _array.namespace(g).zeros_like(g), slots

    return Transform((Stage(kernel),))


@remembered
def add_decayed_weights(weight_decay: float, mask: Tree | Callable[[Tree], Tree] | None = None) -> Transform:
    r"""Add :math:`λθ` to the updates.

    Parameters
    ----------
    weight_decay : float
        λ, any finite number. Before an optimizer, it makes the decay part of the gradient (L2 regularisation, as in
        ``torch.optim.Adam``); between an optimizer with ``lr=1`` and a negative scale, it is decoupled.
    mask : tree of bools, or callable
        The leaves that decay, or a function of the parameters that says so; a prefix of their tree will do. None
        for all.

    Returns
    -------
    Transform
        It keeps nothing.

    Raises
    ------
    ValueError
        If the number is not finite.

    References
    ----------
    Loshchilov and Hutter, Decoupled weight decay regularization, arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.array([2.0]), "b": np.array([2.0])}
    >>> zero = {"w": np.array([0.0]), "b": np.array([0.0])}
    >>> transform = add_decayed_weights(-0.25, mask={"w": True, "b": False})
    >>> params, _ = transform.step(params, zero, transform.init(params))
    >>> print(params["w"], params["b"])
    [1.5] [2.]
    """
    weight_decay = _family.finite("weight_decay", weight_decay)

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        u = p * weight_decay
        u += g
        return u, slots

    return Transform((Stage(kernel, mask=() if mask is None else (mask,)),))


@remembered
def ema(decay: float, *, debias: bool = True) -> Transform:
    r"""Keep an average of the parameters after each step; the updates pass through.

    .. math:: \bar θ \leftarrow \bar θ + c_t (θ + u - \bar θ), \qquad c_t = \frac{1 - β}{1 - β^t}

    Parameters
    ----------
    decay : float
        β in [0, 1]; 1 is the plain average of all steps (Polyak and Ruppert).
    debias : bool
        Whether the first steps count alike, as above. If not, the average begins at the parameters after the first
        step, and :math:`c_t = 1 - β` from then on.

    Returns
    -------
    Transform
        The last of a `chain`, so that it sees the finished updates. The average is
        ``state.slots[-1].average``, at least float32.

    Raises
    ------
    ValueError
        If `decay` is not in [0, 1].

    References
    ----------
    Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 30, 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr import optim
    >>> optimizer = optim.chain(optim.sgd(1.0), optim.ema(0.5))
    >>> params, state = np.array([0.0]), optimizer.init(np.array([0.0]))
    >>> for _ in range(2):
    ...     params, state = optimizer.step(params, np.array([-3.0]), state)
    >>> print(params, state.slots[-1].average)  # 3 and 6 with the weights 1/3 and 2/3
    [6.] [5.]
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must be in [0, 1], got {decay!r}")
    decay = float(decay)
    weight = _family.exponential_weight(decay)

    def coefficients(count: Number) -> Numbers:
        t = _array.as_real(count) + 1
        return (weight(t) if debias else _first(count, 1.0, 1.0 - decay),)

    def kernel(g: Array, p: Array, slots: Average, numbers: Numbers) -> tuple[Array, Average]:
        (average,) = slots
        change = p + g
        change -= average
        change *= numbers[0]
        average += change
        return g, Average(average)

    return Transform((Stage(kernel, Average, coefficients),))


# --- stages that others are made of -------------------------------------------------------------------------


def scaling(factor: Schedule) -> Stage:
    """Multiply the updates by a function of the number of finished steps."""

    def kernel(g: Array, p: Array, slots: NoSlots, numbers: Numbers) -> tuple[Array, NoSlots]:
        return g * numbers[0], slots

    return Stage(kernel, coefficients=lambda count: (factor(count),))


def trace(momentum: float, *, nesterov: bool, dampening: float = 0.0) -> Stage:
    """Return a decayed sum of the updates: m = momentum * m + g."""
    momentum = _family.fraction("momentum", momentum)
    dampening = _family.fraction("dampening", dampening)
    if nesterov and (momentum == 0.0 or dampening != 0.0):
        raise ValueError(
            f"nesterov needs a momentum above 0 and no dampening, got momentum={momentum}, dampening={dampening}"
        )

    def coefficients(count: Number) -> Numbers:
        return (_first(count, 1.0, 1.0 - dampening),) if dampening else ()

    def kernel(g: Array, p: Array, slots: Momentum, numbers: Numbers) -> tuple[Array, Momentum]:
        (m,) = slots
        m *= momentum
        m += g * numbers[0] if dampening else g
        if not nesterov:
            return m, Momentum(m)
        u = m * momentum
        u += g
        return u, Momentum(m)

    return Stage(kernel, Momentum, coefficients)


def _first(count: Number, at_first: float, later: float) -> Number:
    """Choose by whether this is the first step."""
    if not _array.is_array(count):
        return at_first if count == 0 else later
    real = _array.as_real(count)
    return _array.namespace(real).where(real == 0.0, at_first, later + real * 0.0)
