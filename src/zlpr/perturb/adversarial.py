"""Adversarial perturbations of the input, from any callable that gives a value and its gradient.

The algebra is in ``docs/derivations/perturb.md``. Perturbations are constants: nothing is differentiated through them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.perturb._callables import Gradients, ValueAndGrad, combined, evaluated, kept
from zlpr.perturb._samples import Axis, Ball, Bounds, Norm, checked_input, checked_size
from zlpr.perturb.noise import random_direction

__all__ = ["FreeAdversarial", "fgm", "free_adversarial", "pgd", "project"]


def fgm(
    value_and_grad: ValueAndGrad,
    x: Array,
    *,
    epsilon: Any,
    norm: Norm = "l2",
    axis: Axis = None,
    bounds: Bounds = None,
) -> Array:
    r"""Adversarial perturbation by the fast gradient method: one step of steepest ascent from x.

    .. math:: r = \epsilon \, g / \|g\|_2 \quad\text{or}\quad r = \epsilon \operatorname{sign}(g),
        \qquad g = \nabla_x L(x)

    Parameters
    ----------
    value_and_grad : callable
        ``value_and_grad(x) -> (value, dx)``, or ``(value, (dparams, dx))`` as ``jax.value_and_grad(f, argnums=(0, 1))``
        and ``rule.value_and_grad(params, x, argnums=(0, 1))`` give it.
    x : floating array
        The first axis is that of the samples; a vector is one sample.
    epsilon : float or array
        Size of the perturbation of every sample, at least 0; an array broadcasts against x.
    norm : {"l2", "linf"}
        The norm in which it has that size.
    axis : int or tuple of int, optional
        The axes of one sample; all but the first by default.
    bounds : pair of numbers or arrays, optional
        Lower and upper bounds that ``x + r`` keeps, exactly, as x must. The size may be less for it.

    Returns
    -------
    perturbation : array like x
        Train on ``value_and_grad(x + perturbation)``.

    Raises
    ------
    TypeError
        If x is no floating array, or the callable's gradient is not of its library.
    ValueError
        If shapes differ, `epsilon` is negative, `norm` unknown, or (on the host) x outside the bounds.

    Notes
    -----
    A sample whose gradient is zero gets the perturbation 0. Gradients of any size give the perturbation its size, to 3
    ulp; infinite entries share it, which is the limit, and nan stays within its sample. Equal gradients give
    equal bits on every library. The mean and the sum of a batch have the same direction in each sample. To first order
    training on it adds :math:`\epsilon \|g\|` to the loss.

    References
    ----------
    .. [1] T. Miyato, A. M. Dai, I. Goodfellow, "Adversarial training methods for semi-supervised text classification",
       arXiv:1605.07725, equation 5.
    .. [2] I. Goodfellow, J. Shlens, C. Szegedy, "Explaining and harnessing adversarial examples", arXiv:1412.6572,
       section 4 (the sign).
    .. [3] J. Su, Scientific Spaces, post 7234.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import softmax_cross_entropy
    >>> from zlpr.perturb import fgm
    >>> weight, y = np.asarray([[3.0, 0.0], [0.0, 4.0]]), np.asarray([0])
    >>> def value_and_grad(x):
    ...     value, dscores = softmax_cross_entropy.value_and_grad(x @ weight, y)
    ...     return value, dscores @ weight.T
    >>> fgm(value_and_grad, np.zeros((1, 2)), epsilon=0.5)
    array([[-0.3,  0.4]])
    """
    x = checked_input(x)
    ball = Ball(x, epsilon, norm, axis, bounds)
    return ball.edge(evaluated(value_and_grad, x)[2])


def project(perturbation: Array, epsilon: Any, *, norm: Norm = "l2", axis: Axis = None) -> Array:
    r"""Bring a perturbation back to the nearest one of at most a given size in every sample.

    .. math:: r \min(1, \epsilon / \|r\|_2) \quad\text{or}\quad \min(\max(r, -\epsilon), \epsilon)

    Parameters
    ----------
    perturbation : floating array
        The first axis is that of the samples; a vector is one sample.
    epsilon : float or array
        The size, at least 0.
    norm : {"l2", "linf"}
        The norm in which it is measured.
    axis : int or tuple of int, optional
        The axes of one sample; all but the first by default.

    Returns
    -------
    array like perturbation

    Raises
    ------
    TypeError
        If `perturbation` is no floating array.
    ValueError
        If `epsilon` is negative, or `norm` unknown.

    Notes
    -----
    A sample within the ball is returned bit by bit. No size overflows or vanishes; infinite entries share the bound.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import project
    >>> project(np.asarray([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    array([[0.6, 0.8],
           [0.3, 0.4]])
    """
    r = checked_input(perturbation)
    return _array.as_dtype(Ball(r, epsilon, norm, axis, None).projected(r), r.dtype)


def pgd(
    value_and_grad: ValueAndGrad,
    x: Array,
    *,
    epsilon: Any,
    step_size: Any = None,
    n_steps: int = 3,
    norm: Norm = "l2",
    axis: Axis = None,
    bounds: Bounds = None,
    start: Array | None = None,
    rng: np.random.Generator | int | None = None,
) -> Array:
    r"""Adversarial perturbation by projected gradient ascent.

    .. math:: r \leftarrow \Pi\big(r + \alpha \, g / \|g\|\big), \qquad g = \nabla_x L(x + r)

    with the projection :math:`\Pi` on the ball of the radius :math:`\epsilon` and on the box.

    Parameters
    ----------
    value_and_grad, x, epsilon, norm, axis, bounds
        As for `fgm`, which is one step of the size :math:`\epsilon` from zero.
    step_size : float or array, optional
        :math:`\alpha`; ``2.5 * epsilon / n_steps`` by default, which reaches any point of the ball from any other.
    n_steps : int, default 3
        Number of gradients taken.
    start : array like x, optional
        The perturbation to begin with; zero by default.
    rng : numpy.random.Generator or int, optional
        Instead of a start: begin at a random point on the sphere of half the radius (for ``"linf"`` in that ball).

    Returns
    -------
    perturbation : array like x

    Raises
    ------
    TypeError, ValueError
        As `fgm`; and where both `start` and `rng` are given, or `n_steps` is not a positive integer.

    References
    ----------
    .. [1] A. Madry et al., "Towards deep learning models resistant to adversarial attacks", arXiv:1706.06083,
       section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import pgd
    >>> def value_and_grad(x):
    ...     return np.sum(np.abs(x)), np.sign(x)
    >>> pgd(value_and_grad, np.asarray([[0.1, 1.0]]), epsilon=5.0, n_steps=10).round(2)
    array([[3.54, 3.54]])
    """
    x = checked_input(x)
    ball = Ball(x, epsilon, norm, axis, bounds)
    step = _step_size(step_size, ball, n_steps)
    r = _start(ball, start, rng)
    for _ in range(n_steps):
        gradient = evaluated(value_and_grad, ball.moved(r))[2]
        r = _ascended(ball, r, gradient, step)
    return r


class FreeAdversarial(NamedTuple):
    """What `free_adversarial` found.

    Parameters
    ----------
    value : array
        Mean of the values of all steps.
    gradients : tree of arrays
        Mean of their gradients, in the structure of the callable's.
    perturbation : array like x
        After the last step, to start the next call on the same samples with.

    Examples
    --------
    >>> from zlpr.perturb import FreeAdversarial
    >>> FreeAdversarial._fields
    ('value', 'gradients', 'perturbation')
    """

    value: Any
    gradients: Gradients
    perturbation: Array


def free_adversarial(
    value_and_grad: ValueAndGrad,
    x: Array,
    *,
    epsilon: Any,
    step_size: Any = None,
    n_steps: int = 3,
    norm: Norm = "l2",
    axis: Axis = None,
    bounds: Bounds = None,
    start: Array | None = None,
    rng: np.random.Generator | int | None = None,
) -> FreeAdversarial:
    r"""Adversarial training whose ascent is free: the gradients of all steps go into the one of the parameters.

    .. math:: \frac1K \sum_{k<K} \nabla_\theta L(\theta, x + r_k), \qquad
        r_{k+1} = \Pi\big(r_k + \alpha \, g_k / \|g_k\|\big)

    Parameters
    ----------
    value_and_grad : callable
        ``value_and_grad(x) -> (value, (dparams, dx))``, as for `fgm`; with ``(value, dx)`` the mean of ``dx`` is given.
    x, epsilon, step_size, n_steps, norm, axis, bounds, start, rng
        As for `pgd`. `start` with the perturbation of the last call on the same samples is the "free" training of [2].

    Returns
    -------
    FreeAdversarial
        Mean value, mean gradients, and the last perturbation.

    Raises
    ------
    TypeError, ValueError
        As `pgd`.

    Notes
    -----
    `pgd` asks for the same number of gradients and throws those of the parameters away.

    References
    ----------
    .. [1] C. Zhu et al., "FreeLB: Enhanced adversarial training for natural language understanding",
       arXiv:1909.11764, algorithm 1.
    .. [2] A. Shafahi et al., "Adversarial training for free!", arXiv:1904.12843, algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import free_adversarial
    >>> w, x = 2.0, np.asarray([[1.0], [-1.0]])
    >>> def value_and_grad(x):
    ...     return np.mean(w * x), (np.mean(x), np.full_like(x, w / 2))
    >>> value, (dw, _), r = free_adversarial(value_and_grad, x, epsilon=0.5, step_size=0.5, n_steps=2)
    >>> float(value), float(dw), r.ravel()
    (0.5, 0.25, array([0.5, 0.5]))
    """
    x = checked_input(x)
    ball = Ball(x, epsilon, norm, axis, bounds)
    step = _step_size(step_size, ball, n_steps)
    r = _start(ball, start, rng)
    value: Any = 0.0
    gradients: Gradients = None
    for k in range(n_steps):
        term, slopes, gradient = evaluated(value_and_grad, ball.moved(r))
        value = term if not k else value + term
        gradients = kept(slopes) if not k else combined(lambda a, b: a + b, gradients, slopes)
        r = _ascended(ball, r, gradient, step)
    return FreeAdversarial(value / n_steps, combined(lambda g: g / n_steps, gradients), r)


def _ascended(ball: Ball, r: Array, gradient: Array, step: Any) -> Array:
    """One step up, back into the ball and the box."""
    return ball.boxed(ball.projected(r + _ops.settled(step * ball.steepest(gradient))))


def _step_size(step_size: Any, ball: Ball, n_steps: int) -> Any:
    if not _constants.is_integer(n_steps) or n_steps < 1:
        raise ValueError(f"n_steps must be a positive integer, got {n_steps!r}")
    return 2.5 * ball.radius / n_steps if step_size is None else checked_size("step_size", step_size)


def _start(ball: Ball, start: Array | None, rng: Any) -> Array:
    x = ball.x
    if start is not None and rng is not None:
        raise ValueError("start and rng must not both be given")
    if start is not None:
        _array.require_same_home("x", x, "start", start)
        if tuple(start.shape) != tuple(x.shape):
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, not {tuple(start.shape)}")
        return ball.boxed(ball.projected(_array.detached(start)))
    if rng is None:
        return _array.namespace(x).zeros_like(x)
    r = random_direction(x, rng=rng, axis=ball.axes)
    return ball.boxed(_array.as_dtype(r, _array.compute_dtype(x)) * (0.5 * ball.radius))
