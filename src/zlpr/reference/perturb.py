"""The twins of perturbations: one sample at a time, straight from the definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

Numbers = Sequence[Any]

_DIGITS = 60


def label_smoothing(targets: Numbers, amount: float, *, prior: float = 0.5) -> list[Any]:
    """(1 - ε) t + ε π.

    Parameters
    ----------
    targets : sequence of numbers
    amount, prior : float

    Returns
    -------
    list of mpf

    Examples
    --------
    >>> print(label_smoothing([1], 0.5)[0])
    0.75
    """
    with mp.workdps(_DIGITS):
        share = mp.mpf(amount)
        return [(1 - share) * mp.mpf(t) + share * mp.mpf(prior) for t in targets]


def mixup(rows: Sequence[Numbers], weight: float, order: Sequence[int]) -> list[list[Any]]:
    """λ x_i + (1 - λ) x_π(i).

    Parameters
    ----------
    rows : sequence of sequences of numbers
    weight : float
    order : sequence of int

    Returns
    -------
    list of lists of mpf

    Examples
    --------
    >>> print(mixup([[0], [4]], 0.75, [1, 0])[0][0])
    1.0
    """
    with mp.workdps(_DIGITS):
        share = mp.mpf(weight)
        return [
            [share * mp.mpf(a) + (1 - share) * mp.mpf(b) for a, b in zip(row, rows[other], strict=True)]
            for row, other in zip(rows, order, strict=True)
        ]


def fgm(gradient: Numbers, epsilon: float, *, norm: str = "l2") -> list[Any]:
    """ε g / ‖g‖, or ε sign g, of the gradient of one sample; 0 for none.

    Parameters
    ----------
    gradient : sequence of numbers
        Infinite ones share the direction.
    epsilon : float
    norm : {"l2", "linf"}

    Returns
    -------
    list of mpf

    Examples
    --------
    >>> print(fgm([3, 4], 2.5)[1])
    2.0
    """
    with mp.workdps(_DIGITS):
        exact = [mp.mpf(g) for g in gradient]
        if norm == "linf":
            return [mp.mpf(epsilon) * mp.sign(g) for g in exact]
        if any(mp.isinf(g) for g in exact):
            exact = [mp.sign(g) if mp.isinf(g) else mp.mpf(0) for g in exact]
        length = _length(exact)
        return [mp.mpf(epsilon) * g / length if length else mp.mpf(0) for g in exact]


def project(perturbation: Numbers, epsilon: float, *, norm: str = "l2") -> list[Any]:
    """The nearest point of the ball.

    Parameters
    ----------
    perturbation : sequence of numbers
    epsilon : float
    norm : {"l2", "linf"}

    Returns
    -------
    list of mpf

    Examples
    --------
    >>> print(project([3, 4], 2.5)[1])
    2.0
    """
    with mp.workdps(_DIGITS):
        exact, radius = [mp.mpf(r) for r in perturbation], mp.mpf(epsilon)
        if norm == "linf":
            return [min(max(r, -radius), radius) for r in exact]
        return exact if _length(exact) <= radius else fgm(exact, epsilon)


def gradient_penalty(gradients: Sequence[Numbers], weights: Numbers | None = None) -> Any:
    """½ Σ w ‖g‖² over samples with the gradients w g.

    Parameters
    ----------
    gradients : sequence of sequences of numbers
        Of the value, which gives the losses of the samples the weights w.
    weights : sequence of numbers, optional

    Returns
    -------
    mpf

    Examples
    --------
    >>> print(gradient_penalty([[3, 4]]))
    12.5
    """
    with mp.workdps(_DIGITS):
        shares = [mp.mpf(1)] * len(gradients) if weights is None else [mp.mpf(w) for w in weights]
        squares = [mp.fsum(mp.mpf(x) ** 2 for x in g) for g in gradients]
        return mp.fsum(s / w for s, w in zip(squares, shares, strict=True) if w) / 2


def _length(numbers: Sequence[Any]) -> Any:
    return mp.sqrt(mp.fsum(x**2 for x in numbers))
