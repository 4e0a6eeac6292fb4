"""Noise on the targets: label smoothing, and mixtures of samples with their targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from zlpr import _array, _constants
from zlpr._array import Array
from zlpr.rules import rule
from zlpr.rules._rule import Pullback

__all__ = ["label_smoothing", "mixup"]


@rule(wrt=("targets",))
def label_smoothing(targets: Array, amount: float, *, prior: Any = 0.5) -> tuple[Array, Pullback]:
    r"""Move targets towards a prior.

    .. math:: t' = (1 - \varepsilon)\, t + \varepsilon \pi

    Parameters
    ----------
    targets : array
        Labels, a truth value or a probability an entry: bool, integer or floating.
    amount : float
        :math:`\varepsilon` in [0, 1].
    prior : float or array, default 0.5
        :math:`\pi`: ½ for labels that are present or not; ``1 / C`` for distributions over C classes; or the
        frequencies of the labels, an array that broadcasts against the targets.

    Returns
    -------
    array like targets
        In the default floating dtype of the library where the targets are bool or integer.

    Raises
    ------
    TypeError
        If an argument is of a wrong type or dtype.
    ValueError
        If `amount` or a number `prior` is not in [0, 1].

    Notes
    -----
    The losses take ``label_smoothing=`` themselves, without an array of targets in memory. With the prior ½ ZLPR has
    its minimum at the scores :math:`\pm\frac12 \log\frac{1 - \varepsilon/2}{\varepsilon/2}`, where it is not 0: see
    `zlpr.losses.zlpr_minimum`.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception architecture for computer vision", arXiv:1512.00567, section 7.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import label_smoothing
    >>> label_smoothing(np.asarray([1.0, 0.0]), 0.1)
    array([0.95, 0.05])
    """
    _array.require_array("targets", targets)
    if _array.kind(targets) == "other":
        raise TypeError(f"targets must be bool, integer or real floating, not {targets.dtype}")
    _require_share("amount", amount)
    if _array.is_array(prior):
        _array.require_same_home("targets", targets, "prior", prior)
    else:
        _require_share("prior", prior)
    dtype = targets.dtype if _array.kind(targets) == "floating" else _default_floating(targets)
    wide = _array.as_dtype(targets, dtype)
    wide = _array.as_dtype(wide, _array.compute_dtype(wide))
    kept = 1.0 - float(amount)
    spread = float(amount) * (_array.as_dtype(prior, wide.dtype) if _array.is_array(prior) else float(prior))

    def label_smoothing_pullback(dy: Array) -> Array:
        return _array.as_dtype(_array.as_dtype(dy, wide.dtype) * kept, dtype)

    return _array.as_dtype(wide * kept + spread, dtype), label_smoothing_pullback


def mixup(
    x: Array,
    targets: Array,
    *,
    alpha: float = 0.2,
    rng: np.random.Generator | int | None = None,
    weight: Any = None,
    order: Array | None = None,
) -> tuple[Array, Array]:
    r"""Mix every sample, and its target, with another one of the batch.

    .. math:: \lambda x_i + (1 - \lambda) x_{\pi(i)}, \qquad \lambda t_i + (1 - \lambda) t_{\pi(i)}, \qquad
        \lambda \sim \mathrm{Beta}(\alpha, \alpha)

    Parameters
    ----------
    x : (n, ...) floating array
    targets : (n, ...) array
        Labels, a truth value or a probability an entry: bool, integer 0-1 or floating. Class indices have no mixture.
    alpha : float, default 0.2
        Parameter of the distribution of the weight, positive.
    rng : numpy.random.Generator or int
        Source of one weight and of the order, or its seed.
    weight : float or (n,) array, optional
        :math:`\lambda`, instead of drawing it.
    order : (n,) integer array, optional
        :math:`\pi`, instead of drawing it. Weight and order are both given, or both drawn.

    Returns
    -------
    mixed_x : array like x
    mixed_targets : array like targets
        In the dtype of x where the targets are bool or integer.

    Raises
    ------
    TypeError
        If an argument is of a wrong type or dtype.
    ValueError
        If the numbers of samples differ, `alpha` is not positive, or `rng` is given beside weight or order.

    Notes
    -----
    The mean of the losses of two hard labels is at most the loss of their mixture (Jensen), which is used here.

    References
    ----------
    .. [1] H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz, "mixup: Beyond empirical risk minimization", arXiv:1710.09412,
       equation 2.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.perturb import mixup
    >>> x, targets = np.asarray([[0.0], [4.0]]), np.asarray([[True], [False]])
    >>> mixup(x, targets, weight=0.75, order=np.asarray([1, 0]))
    (array([[1.],
           [3.]]), array([[0.75],
           [0.25]]))
    """
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
    _check_targets(targets, x)
    if rng is not None and weight is None and order is None:
        weight, order = _drawn(x, alpha, rng)
    elif rng is not None or weight is None or order is None:
        raise ValueError("either rng must be given, or weight and order")
    return _mixed(x, weight, order), _mixed(_as_probabilities(targets, x), weight, order)


def _drawn(x: Array, alpha: float, rng: Any) -> tuple[float, Array]:
    if not _constants.is_number(alpha) or not alpha > 0:
        raise ValueError(f"alpha must be a positive number, got {alpha!r}")
    if _array.is_abstract(x) and isinstance(rng, np.random.Generator):
        raise ValueError("rng must not be a generator in a function that is being compiled: draw outside")
    generator = np.random.default_rng(rng)
    weight = float(generator.beta(alpha, alpha))
    return weight, _array.from_numpy(generator.permutation(x.shape[0]), x)


def _mixed(x: Array, weight: Any, order: Array) -> Array:
    xp, compute = _array.namespace(x), _array.compute_dtype(x)
    wide = _array.as_dtype(x, compute)
    if _array.is_array(weight):
        weight = _array.as_dtype(weight, compute)
        weight = xp.reshape(weight, (-1,) + (1,) * (x.ndim - 1)) if weight.ndim else weight
    return _array.as_dtype(wide * weight + xp.take(wide, order, axis=0) * (1.0 - weight), x.dtype)


def _as_probabilities(targets: Array, x: Array) -> Array:
    return targets if _array.kind(targets) == "floating" else _array.as_dtype(targets, x.dtype)


def _check_targets(targets: Array, x: Array) -> None:
    _array.require_array("targets", targets)
    _array.require_same_home("x", x, "targets", targets)
    kind = _array.kind(targets)
    if kind == "other":
        raise TypeError(f"targets must be bool, integer or real floating, not {targets.dtype}")
    if kind == "integral" and targets.ndim == 1:
        raise TypeError("targets must have an entry a class: class indices have no mixture")
    if not x.ndim or not targets.ndim or x.shape[0] != targets.shape[0]:
        raise ValueError(
            f"targets must have an entry for each of the samples of x, {tuple(x.shape)}, not {tuple(targets.shape)}"
        )


def _require_share(name: str, value: Any) -> None:
    if not _constants.is_number(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def _default_floating(x: Array) -> Any:
    """The dtype in which the library makes an array of a Python float."""
    return _array.namespace(x).asarray(0.0).dtype
