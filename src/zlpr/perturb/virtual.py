"""Virtual adversarial training: the direction in which the output changes most, and the divergence along it.

No targets are needed. The algebra is in ``docs/derivations/perturb.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from zlpr import _array, _constants
from zlpr._array import Array
from zlpr.perturb._callables import ForwardVjp, Gradients, combined, forward, of_input
from zlpr.perturb._samples import (
    Axis,
    Ball,
    Bounds,
    checked_input,
    checked_step,
    polar,
    root_mean_square,
    total,
)
from zlpr.perturb.noise import random_direction
from zlpr.rules import RowLoss, Rule

__all__ = ["consistency", "virtual_adversarial"]


def virtual_adversarial(
    divergence: Any,
    forward_vjp: ForwardVjp,
    x: Array,
    *,
    epsilon: Any,
    xi: Any = None,
    n_iter: int = 1,
    rng: np.random.Generator | int | None = None,
    direction: Array | None = None,
    axis: Axis = None,
    bounds: Bounds = None,
    clean: Array | None = None,
    exact: bool = False,
    forward_jvp: Callable[[Array, Array], Array] | None = None,
    **options: Any,
) -> Array:
    r"""Perturbation along which the output of a model diverges most, by power iteration.

    .. math:: r = \epsilon u, \qquad u \leftarrow \frac{H u}{\|H u\|}, \qquad
        H = \nabla_r^2 D\big(f(x), f(x + r)\big)\big|_{r=0} = J^\top F J

    with the Jacobian :math:`J` of the scores and the Hessian :math:`F` of the divergence in them.

    Parameters
    ----------
    divergence : Rule or callable
        A rule of the scores at x and at the perturbed x, such as `zlpr.losses.zlpr_divergence`; or a function
        ``divergence(clean, moved) -> (value, dmoved)``.
    forward_vjp : callable
        ``forward_vjp(x) -> (scores, pullback)``, where ``pullback(dscores)`` gives ``dx`` or ``(dparams, dx)``:
        ``lambda x: rule.vjp(params, x)``, or ``lambda x: jax.vjp(model, params, x)``.
    x : floating array
        The first axis is that of the samples; a vector is one sample.
    epsilon : float or array
        Size of the perturbation of every sample in the Euclidean norm, at least 0.
    xi : float or array, optional
        Length of the step by which :math:`H u` is found as ``grad(x + xi * u) / xi``; by default the fourth root of the
        machine epsilon times the root mean square of the sample, or times 1 where the sample is zero.
    n_iter : int, default 1
        Power iterations.
    rng : numpy.random.Generator or int
        Source of the first direction, or its seed.
    direction : array like x, optional
        The first direction, instead of `rng`; of any length. `random_direction` draws one.
    axis : int or tuple of int, optional
        The axes of one sample; all but the first by default.
    bounds : pair of numbers or arrays, optional
        As for `fgm`.
    clean : array, optional
        The scores at x, where they are known.
    exact : bool, default False
        Take :math:`H u = J^\top (F (J u))` by products, without `xi`. The Jacobian is found by a pullback for each
        score, unless `forward_jvp` is given: for scores ``(n, C)`` of samples that do not depend on one another.
    forward_jvp : callable, optional
        ``forward_jvp(x, u)``, the product :math:`J u` at x; ``exact`` is meant then. `NetworkObjective` has one, and
        with JAX it is ``lambda x, u: jax.jvp(f, (x,), (u,))[1]``.
    **options
        To the divergence: ``symmetric``, ``mask`` ...

    Returns
    -------
    perturbation : array like x
        A constant, to be given to `consistency`.

    Raises
    ------
    TypeError
        If x is no floating array, a callable's result is not of its library, or an exact product is asked of a
        divergence without ``hvp``.
    ValueError
        If shapes differ, `n_iter` or `epsilon` is negative, or not one of `rng` and `direction` is given.

    Notes
    -----
    A sample on which the output does not depend gets the perturbation 0. Direction and sign: H is the same for u and
    -u, and so the sign is that of the first direction, which the iteration keeps. A step of 1e-6, as is common, is
    lost in float32, where ``x + 1e-6`` is x for the most part: the direction is noise, and without this function's
    care nan. The first direction has the same bits on every library, the result the same but for its last digits.

    References
    ----------
    .. [1] T. Miyato, S. Maeda, M. Koyama, S. Ishii, "Virtual adversarial training: a regularization method for
       supervised and semi-supervised learning", arXiv:1704.03976, algorithm 1.
    .. [2] J. Su, Scientific Spaces, post 7466.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_divergence
    >>> from zlpr.perturb import virtual_adversarial

    Two scores, of which the second depends on the second coordinate ten times as strongly:

    >>> weight = np.asarray([[1.0, 0.0], [0.0, 10.0]])
    >>> def forward_vjp(x):
    ...     return x @ weight, lambda dscores: dscores @ weight.T
    >>> r = virtual_adversarial(zlpr_divergence, forward_vjp, np.zeros((1, 2)), epsilon=0.5, n_iter=5, rng=0)
    >>> np.abs(r).round(6)
    array([[0. , 0.5]])
    """
    x = checked_input(x)
    ball = Ball(x, epsilon, "l2", axis, bounds)
    if not _constants.is_integer(n_iter) or n_iter < 0:
        raise ValueError(f"n_iter must be an integer of at least 0, got {n_iter!r}")
    u = _first_direction(ball, rng, direction)
    if isinstance(divergence, RowLoss):  # a mean would only shrink the gradients
        options = {**options, "reduction": "sum"}
    if exact or forward_jvp is not None:
        curvature = _exact_curvature(divergence, options, forward_vjp, ball, forward_jvp)
    else:
        curvature = _differences(divergence, options, forward_vjp, ball, xi, clean)
    for _ in range(n_iter):
        u = ball.steepest(curvature(u))
    return ball.edge(u)


def consistency(
    divergence: Any,
    forward_vjp: ForwardVjp,
    x: Array,
    perturbation: Array,
    *,
    clean: Array | None = None,
    through_clean: bool = False,
    **options: Any,
) -> tuple[Array, Gradients]:
    r"""Divergence of a model's output at a perturbed input from that at the input, with its gradients.

    .. math:: D\big(f(x), f(x + r)\big)

    Parameters
    ----------
    divergence, forward_vjp, x, clean
        As for `virtual_adversarial`.
    perturbation : array like x
        :math:`r`; a constant.
    through_clean : bool, default False
        Whether the gradient also goes through :math:`f(x)`, which is a constant in virtual adversarial training and is
        not in R-Drop. A divergence that is no rule must give ``(dclean, dmoved)`` then.
    **options
        To the divergence: ``reduction``, ``sample_weight``, ``mask`` ...

    Returns
    -------
    value : array
    gradients : tree of arrays
        As the pullback gives them: dx or (dparams, dx).

    Raises
    ------
    TypeError, ValueError
        As `virtual_adversarial`.

    Notes
    -----
    For a random direction times :math:`\epsilon` the expectation is
    :math:`\frac{\epsilon^2}{2d} \operatorname{tr}(J^\top F J)` to second order, d the number of a sample's entries; for
    the virtual adversarial one it is :math:`\frac{\epsilon^2}2 \lambda_{\max}(J^\top F J)`.

    References
    ----------
    .. [1] T. Miyato et al., arXiv:1704.03976, equation 8.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_divergence
    >>> from zlpr.perturb import consistency
    >>> def forward_vjp(x):
    ...     return x, lambda dscores: dscores
    >>> value, dx = consistency(zlpr_divergence, forward_vjp, np.zeros((1, 2)), np.asarray([[0.0, 2.0]]))
    >>> round(float(value), 6), round(float(dx[0, 1]), 6)
    (0.761594, 0.590784)
    """
    x = checked_input(x)
    _require_like("perturbation", perturbation, x)
    moved, pullback = forward(forward_vjp, x + _array.detached(perturbation))
    clean_pullback: Any = None
    if through_clean:
        clean, clean_pullback = forward(forward_vjp, x)
    elif clean is None:
        clean = forward(forward_vjp, x)[0]
    value, dclean, dmoved = _divergence(divergence, clean, moved, through_clean, options)
    gradients = pullback(dmoved)
    if through_clean:
        gradients = combined(lambda a, b: a + b, gradients, clean_pullback(dclean))
    return value, gradients


def _divergence(
    divergence: Any, clean: Array, moved: Array, through_clean: bool, options: dict[str, Any]
) -> tuple[Any, Any, Array]:
    """The value and the gradients with respect to the scores at x, if wanted, and at the perturbed x."""
    clean, moved = _array.detached(clean), _array.detached(moved)
    if isinstance(divergence, Rule):
        value, slopes = divergence.value_and_grad(
            clean, moved, argnums=(0, 1) if through_clean else (1,), **options
        )
        return value, slopes[0], slopes[-1]
    value, slopes = divergence(clean, moved, **options)
    if isinstance(slopes, tuple | list):
        return value, slopes[0], slopes[1]
    if through_clean:
        raise TypeError("divergence must give (value, (dclean, dmoved)) where the gradient goes through both")
    return value, None, slopes


Curvature = Callable[[Array], Array]
"""Multiplies a direction by ``J^T F J``, up to a factor."""


def _differences(
    divergence: Any,
    options: dict[str, Any],
    forward_vjp: ForwardVjp,
    ball: Ball,
    xi: Any,
    clean: Array | None,
) -> Curvature:
    """By the gradient at a small distance, which is 0 at none."""
    x = ball.x
    scores = forward(forward_vjp, x)[0] if clean is None else clean
    step = _default_xi(ball) if xi is None else checked_step("xi", xi)

    def curvature(u: Array) -> Array:
        moved, pullback = forward(forward_vjp, ball.moved(step * u))
        dscores = _divergence(divergence, scores, moved, False, options)[2]
        return of_input("pullback", pullback(dscores), x)

    return curvature


def _default_xi(ball: Ball) -> Array:
    """The fourth root of epsilon in the scale of each sample."""
    x = ball.x
    return float(_array.namespace(x).finfo(x.dtype).eps) ** 0.25 * root_mean_square(x, ball.axes)


def _exact_curvature(
    divergence: Any,
    options: dict[str, Any],
    forward_vjp: ForwardVjp,
    ball: Ball,
    forward_jvp: Callable[[Array, Array], Array] | None,
) -> Curvature:
    """By a product with the Jacobian, one with the divergence's Hessian at no distance, and a pullback."""
    x = ball.x
    scores, pullback = forward(forward_vjp, x)
    scores = _array.detached(scores)
    if not hasattr(divergence, "hvp"):
        raise TypeError("divergence must have hvp, the product with its Hessian, for an exact curvature")
    given = None if forward_jvp is None else functools.partial(forward_jvp, x)
    along = given or _jacobian_product(scores, pullback, ball)

    def curvature(u: Array) -> Array:
        tangent = along(_array.as_dtype(u, x.dtype))
        slope = divergence.hvp(scores, scores, _array.as_dtype(tangent, scores.dtype), **options)
        return of_input("pullback", pullback(slope), x)

    return curvature


def _jacobian_product(
    scores: Array, pullback: Callable[[Array], Gradients], ball: Ball
) -> Callable[[Array], Array]:
    """``J u`` from the rows of the Jacobian, which are the pullbacks of single scores of all samples at once."""
    x, xp = ball.x, _array.namespace(scores)
    if scores.ndim != 2 or x.ndim < 2 or scores.shape[0] != x.shape[0] or 0 in ball.axes:
        raise ValueError(
            f"scores must have the shape (n, C) for samples (n, ...), not {tuple(scores.shape)} for {tuple(x.shape)}; "
            f"give forward_jvp otherwise"
        )
    columns = xp.arange(scores.shape[1], device=_array.device(scores))
    rows = [of_input("pullback", pullback(_one_score(scores, columns, c)), x) for c in range(scores.shape[1])]

    def along(u: Array) -> Array:
        sample = tuple(range(1, x.ndim))
        products = [xp.reshape(total(row * u, sample), (-1,)) for row in rows]
        return xp.stack(products, axis=1)

    return along


def _one_score(scores: Array, columns: Array, c: int) -> Array:
    """1 at one score of every sample."""
    xp = _array.namespace(scores)
    chosen = _array.as_dtype(columns == c, scores.dtype)
    return xp.broadcast_to(chosen[None, :], tuple(scores.shape)) * xp.ones_like(scores)


def _first_direction(ball: Ball, rng: Any, direction: Array | None) -> Array:
    if (rng is None) == (direction is None):
        raise ValueError("one of rng and direction must be given, and not both")
    if direction is None:
        return _array.as_dtype(
            random_direction(ball.x, rng=rng, axis=ball.axes), _array.compute_dtype(ball.x)
        )
    _require_like("direction", direction, ball.x)
    return polar(_array.detached(direction), ball.axes).direction


def _require_like(name: str, value: Array, x: Array) -> None:
    _array.require_array(name, value)
    _array.require_same_home("x", x, name, value)
    if tuple(value.shape) != tuple(x.shape):
        raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, not {tuple(value.shape)}")
