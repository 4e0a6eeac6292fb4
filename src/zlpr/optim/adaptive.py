"""The family of Adam: two averages, of the gradient and of its square, and a step of their quotient.

Adam, AMSGrad, AdaX and RMSprop differ in one function of the step, how far the average square moves towards the
newest one (`_family`), and their sources in where ε stands and what is corrected for its bias. The algebra, and
a table of the conventions, are in ``docs/derivations/optim.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from zlpr import _array
from zlpr._array import Array
from zlpr._treewalk import Tree
from zlpr.optim import _family
from zlpr.optim._chain import Number, Numbers, Stage, Transform, remembered
from zlpr.optim._family import Moments, Schedule, Weight
from zlpr.optim.transforms import scaling, trace


class GreatestMoments(NamedTuple):
    """What AMSGrad keeps: what Adam does, and the greatest average square."""

    m: Tree
    v: Tree
    v_max: Tree


class CenteredSquare(NamedTuple):
    """What centered RMSprop keeps: the averages of the gradient and of its square."""

    m: Tree
    v: Tree


class Square(NamedTuple):
    """What RMSprop keeps: the average square of the gradient."""

    v: Tree


@remembered
def adam(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    convention: Literal["paper", "torch", "optax", "keras"] = "paper",
) -> Transform:
    r"""Adam.

    .. math:: m \leftarrow m + (1 - β_1)(g - m), \quad \hat v \leftarrow \hat v + c_t (g^2 - \hat v), \quad
        c_t = \frac{1 - β_2}{1 - β_2^t}, \quad u = -\frac{η}{1 - β_1^t} \frac{m}{\sqrt{\hat v} + ε}

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    b1, b2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        ε ≥ 0, outside the root.
    convention : {"paper", "torch", "optax", "keras"}
        The first three are the same arithmetic; Keras adds ε to the root of the uncorrected moment, which makes
        it :math:`ε / \sqrt{1 - β_2^t}` here.

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
    _family.convention_of(convention, ("paper", "torch", "optax", "keras"))
    return _adaptive(lr, b1, _adam_rule(b2, eps, convention))


@remembered
def adamw(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    convention: Literal["paper", "torch", "optax", "keras"] = "torch",
) -> Transform:
    r"""Adam with decoupled weight decay: the update of `adam`, and :math:`-ηλθ`.

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    b1, b2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        ε ≥ 0, outside the root.
    weight_decay : float
        λ ≥ 0; it is multiplied by the learning rate, but not with ``convention="paper"``.
    convention : {"paper", "torch", "optax", "keras"}
        PyTorch and optax do the same. Keras adds ε to the root of the uncorrected moment (see `adam`). In the
        paper the decay is :math:`-λθ`, whatever the learning rate; its schedule multiplies both, and is put behind:
        ``chain(adamw(lr, convention="paper"), scale_by_schedule(f))``.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range, or the learning rate a schedule with ``convention="paper"``.

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
    _family.convention_of(convention, ("paper", "torch", "optax", "keras"))
    if convention == "paper" and callable(lr):
        raise ValueError(
            "lr must be a number with convention='paper', whose schedule multiplies the decay as well: "
            "chain(adamw(lr, ...), scale_by_schedule(...))"
        )
    return _adaptive(
        lr,
        b1,
        _adam_rule(b2, eps, convention),
        weight_decay=weight_decay,
        decay_with_rate=convention != "paper",
    )


@remembered
def amsgrad(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    convention: Literal["paper", "torch", "optax", "keras"] = "torch",
) -> Transform:
    r"""AMSGrad: Adam whose denominators never shrink.

    .. math:: v^{\max} \leftarrow \max(v^{\max}, v), \quad
        u = -\frac{η}{1 - β_1^t} \frac{m}{\sqrt{v^{\max} / (1 - β_2^t)} + ε}, \quad v = (1 - β_2^t)\, \hat v

    with `m` and :math:`\hat v` of `adam`.

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    b1, b2 : float
        Decay of the averages of the gradient and of its square, in [0, 1).
    eps : float
        ε ≥ 0, outside the root.
    convention : {"paper", "torch", "optax", "keras"}
        The formula above is PyTorch's. optax takes the greatest of the corrected :math:`\hat v`. The paper
        corrects nothing. Keras is PyTorch with ε added to the root of the uncorrected moment.

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
    Reddi, Kale and Kumar, On the convergence of Adam and beyond, arXiv:1904.09237, algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = amsgrad(0.1, b1=0.0, b2=0.5, eps=0.0)
    >>> params, state = np.array([1.0]), optimizer.init(np.array([1.0]))
    >>> for g in (2.0, 0.0, 1.0):
    ...     params, state = optimizer.step(params, np.array([g]), state)
    >>> print(state.slots[0].v_max)  # of 2, 1 and 1
    [2.]
    """
    _family.convention_of(convention, ("paper", "torch", "optax", "keras"))
    rule = replace(_adam_rule(b2, eps, convention), corrected=convention != "paper")
    return _adaptive(lr, b1, rule, greatest=True)


@remembered
def adax(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 1e-4,
    eps: float = 1e-12,
    convention: Literal["paper", "official", "post"] = "paper",
) -> Transform:
    r"""AdaX: Adam with a long memory, whose second moment settles.

    .. math:: m \leftarrow m + (1 - β_1)(g - m), \quad \hat v \leftarrow \hat v + c_t (g^2 - \hat v), \quad
        c_t = \frac{β_2}{(1 + β_2)^t - 1}, \quad u = -η \frac{m}{\sqrt{\hat v} + ε}

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps. The first steps are shorter than
        Adam's by the factor 1 - β₁, because `m` is not corrected for its bias.
    b1 : float
        Decay of the average of the gradient, in [0, 1).
    b2 : float
        Growth β₂ of the weights of the squares, in [0, 1); 0 is the plain average of all squares.
    eps : float
        ε ≥ 0, outside the root.
    convention : {"paper", "official", "post"}
        Where ε stands; see the notes.

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
    ε stands outside the root. The authors' code (``"official"``) adds it to the root of the uncorrected moment,
    which makes it :math:`ε / \sqrt{(1+β_2)^t - 1}` here; the post writes it inside the root, where ε² has the
    effect of ε outside. With ε = 1e-12 the three agree wherever the gradients are not that small themselves.

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
    _family.convention_of(convention, ("paper", "official", "post"))
    return _adaptive(lr, b1, _adax_rule(b2, eps, convention))


@remembered
def adaxw(
    lr: float | Schedule,
    *,
    b1: float = 0.9,
    b2: float = 1e-4,
    eps: float = 1e-12,
    weight_decay: float = 5e-2,
    convention: Literal["paper", "official", "post"] = "paper",
) -> Transform:
    r"""AdaX with decoupled weight decay: the update of `adax`, and :math:`-ηλθ`.

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    b1 : float
        Decay of the average of the gradient, in [0, 1).
    b2 : float
        Growth β₂ of the weights of the squares, in [0, 1).
    eps : float
        ε ≥ 0, outside the root (see `adax`).
    weight_decay : float
        λ ≥ 0; it is multiplied by the learning rate.
    convention : {"paper", "official", "post"}
        Where ε stands (see `adax`); all decay alike.

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
    _family.convention_of(convention, ("paper", "official", "post"))
    return _adaptive(lr, b1, _adax_rule(b2, eps, convention), weight_decay=weight_decay)


@remembered
def rmsprop(
    lr: float | Schedule,
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
    bias_correction: bool = False,
    convention: Literal["paper", "torch", "optax"] = "optax",
) -> Transform:
    r"""RMSprop: the gradient over the root of its average square.

    .. math:: v \leftarrow v + (1 - β)(g^2 - v), \qquad u = -η \frac{g}{\sqrt{v + ε}}

    Parameters
    ----------
    lr : float or callable
        Learning rate η ≥ 0, or a schedule of the number of finished steps.
    decay : float
        β in [0, 1).
    eps : float
        ε ≥ 0; inside the root with ``convention="optax"``, outside with the others.
    centered : bool
        Whether the square of the average gradient is taken from `v`.
    momentum : float
        In [0, 1): what remains of the last update.
    nesterov : bool
        Whether the momentum looks one step ahead.
    bias_correction : bool
        Whether the averages are corrected for their beginning at 0, as in `adam`.
    convention : {"paper", "torch", "optax"}
        Beside the place of ε: in optax the learning rate is inside the momentum, in PyTorch outside, which differs
        when it changes. The paper's is PyTorch's arithmetic. PyTorch's default `decay` is 0.99.

    Returns
    -------
    Transform
        The optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range, or `nesterov` is asked for without momentum.

    Notes
    -----
    An entry whose denominator is 0 takes no step. Where rounding makes the centered square negative, it is 0.

    References
    ----------
    Hinton, Neural networks for machine learning, lecture 6e, 2012; centered: Graves, arXiv:1308.0850, equation 40.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = rmsprop(0.1, decay=0.75, eps=0.0)
    >>> params = np.array([1.0, -2.0])
    >>> params, state = optimizer.step(params, np.array([4.0, -32.0]), optimizer.init(params))
    >>> print(params)  # the first step is lr * sign(g) / sqrt(1 - decay)
    [ 0.8 -1.8]
    """
    rate, decay = _family.learning_rate(lr), _family.fraction("decay", decay)
    eps = _family.not_negative("eps", eps)
    _family.convention_of(convention, ("paper", "torch", "optax"))
    inside = convention == "optax"
    weight = _family.exponential_weight(decay) if bias_correction else _family.constant_weight(1.0 - decay)

    def coefficients(count: Number) -> Numbers:
        return (weight(_array.as_real(count) + 1),)

    def kernel(g: Array, p: Array, slots: Any, numbers: Numbers) -> tuple[Array, tuple[Array, ...]]:
        (c,), xp = numbers, _array.namespace(g)
        *m, v = slots
        v = spread = _family.moved_to_square(v, g, c)
        if centered:
            m = [_family.moved(m[0], g, c)]
            spread = v - m[0] * m[0]
            spread = xp.where(spread < 0.0, xp.zeros_like(spread), spread)
        root = xp.sqrt(spread + eps) if inside else xp.sqrt(spread) + eps
        return _family.quotient(g, root, may_vanish=_family.may_vanish(eps)), (*m, v)

    descend = scaling(lambda count: -rate(count))
    normalise = Stage(kernel, CenteredSquare if centered else Square, coefficients)
    if momentum == 0.0 and not nesterov:
        return Transform((normalise, descend))
    push = trace(momentum, nesterov=nesterov)
    return Transform((normalise, descend, push) if convention == "optax" else (normalise, push, descend))


@dataclass(frozen=True)
class _Rule:
    """How a source moves the second moment, and what it makes of it: functions of the step, counted from 1."""

    weight: Weight
    eps: Callable[[Number], Number]
    may_vanish: bool
    inside: bool = False
    """Whether eps stands inside the root."""
    corrected: bool = True
    """Whether the first moment is corrected for its bias."""
    before: Callable[[Number], Number] | None = None
    """What AMSGrad multiplies the corrected second moment with before it takes the greatest,"""
    after: Callable[[Number], Number] | None = None
    """and after."""


def _adam_rule(b2: float, eps: float, convention: str) -> _Rule:
    b2, eps = _family.fraction("b2", b2), _family.not_negative("eps", eps)

    def left(t: Number) -> Number:
        return _family.one_minus_power(b2, t)

    return _Rule(
        _family.exponential_weight(b2),
        (lambda t: eps / _family.square_root(left(t))) if convention == "keras" else (lambda t: eps),
        _family.may_vanish(eps),
        before=None if convention == "optax" else left,
        after=(lambda t: 1.0 / left(t)) if convention in ("torch", "keras") else None,
    )


def _adax_rule(b2: float, eps: float, convention: str) -> _Rule:
    b2, eps = _family.fraction("b2", b2), _family.not_negative("eps", eps)
    if convention != "official":
        return _Rule(
            _family.growing_weight(b2),
            lambda t: eps,
            _family.may_vanish(eps),
            inside=convention == "post",
            corrected=False,
        )
    if b2 == 0.0:
        raise ValueError("b2 must be positive with convention='official', whose moment is 0 otherwise")
    growth = math.log1p(b2)
    return _Rule(
        _family.growing_weight(b2),
        lambda t: eps / _family.square_root(_family.expm1(t * growth)),
        may_vanish=True,  # this eps goes to 0
        corrected=False,
    )


def _adaptive(
    lr: float | Schedule,
    b1: float,
    rule: _Rule,
    *,
    weight_decay: float = 0.0,
    decay_with_rate: bool = True,
    greatest: bool = False,
) -> Transform:
    """Build one of the family of two averages."""
    rate, b1 = _family.learning_rate(lr), _family.fraction("b1", b1)
    weight_decay = _family.not_negative("weight_decay", weight_decay)
    before, after = (rule.before, rule.after) if greatest else (None, None)

    def coefficients(count: Number) -> Numbers:
        t, eta = _array.as_real(count) + 1, rate(count)
        scale = eta * (1.0 - b1) / (_family.one_minus_power(b1, t) if rule.corrected else 1.0)
        return (
            rule.weight(t),
            scale,
            rule.eps(t),
            eta * weight_decay if decay_with_rate else weight_decay,
            before(t) if before else 1.0,
            after(t) if after else 1.0,
        )

    def kernel(g: Array, p: Array, slots: Any, numbers: Numbers) -> tuple[Array, tuple[Array, ...]]:
        xp = _array.namespace(g)
        (c, scale, eps, decay, keep, restore), (m, v, *top) = numbers, slots
        m *= b1
        m += g
        v = square = _family.moved_to_square(v, g, c)
        if greatest:
            top = [xp.maximum(top[0], v * keep if before else v)]
            square = top[0] * restore if after else top[0]
        root = xp.sqrt(square + eps) if rule.inside else xp.sqrt(square)
        if not rule.inside:
            root += eps
        u = _family.quotient(m, root, may_vanish=rule.may_vanish)
        u *= -scale
        if weight_decay:
            u -= p * decay
        return u, (m, v, *top)

    return Transform((Stage(kernel, GreatestMoments if greatest else Moments, coefficients),))
