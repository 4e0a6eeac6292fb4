"""The optimizers' twins: one step straight from the published recursions, in mpmath, on lists.

They keep the *uncorrected* moments of the papers and correct them at each step, where `zlpr.optim` keeps the
corrected second moment, so that an error in that algebra cannot hide in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import mpmath as mp

Numbers = Sequence[Any]


def adam_step(
    p: Numbers,
    g: Numbers,
    m: Numbers,
    v: Numbers,
    t: int,
    *,
    lr: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[list[Any], list[Any], list[Any]]:
    """One step of Adam, or of AdamW, from parameters, gradients and uncorrected moments.

    Parameters
    ----------
    p, g, m, v : sequences of numbers
        Parameters, gradients, first and second moment.
    t : int
        The step, counted from 1.
    lr, b1, b2, eps, weight_decay : float
        As in `zlpr.optim.adamw`.

    Returns
    -------
    p, m, v : lists of mpf
        After the step.

    References
    ----------
    arXiv:1412.6980, algorithm 1; arXiv:1711.05101, algorithm 2, with the decay times the learning rate.

    Examples
    --------
    >>> print(mp.nstr(adam_step([1], [4], [0], [0], 1, lr=0.25, eps=0)[0][0], 6))
    0.75
    """
    m = [mp.mpf(b1) * a + (1 - mp.mpf(b1)) * x for a, x in zip(m, g, strict=True)]
    v = [mp.mpf(b2) * a + (1 - mp.mpf(b2)) * mp.mpf(x) ** 2 for a, x in zip(v, g, strict=True)]
    m_hat = [a / (1 - mp.mpf(b1) ** t) for a in m]
    v_hat = [a / (1 - mp.mpf(b2) ** t) for a in v]
    return _moved(p, m_hat, v_hat, lr, eps, weight_decay), m, v


def adax_step(
    p: Numbers,
    g: Numbers,
    m: Numbers,
    v: Numbers,
    t: int,
    *,
    lr: float,
    b1: float = 0.9,
    b2: float = 1e-4,
    eps: float = 1e-12,
    weight_decay: float = 0.0,
) -> tuple[list[Any], list[Any], list[Any]]:
    """One step of AdaX, or of AdaX-W, from parameters, gradients and uncorrected moments.

    Parameters
    ----------
    p, g, m, v : sequences of numbers
        Parameters, gradients, first and second moment.
    t : int
        The step, counted from 1.
    lr, b1, b2, eps, weight_decay : float
        As in `zlpr.optim.adaxw`.

    Returns
    -------
    p, m, v : lists of mpf
        After the step.

    References
    ----------
    arXiv:2004.09740, algorithm 1, with eps outside the root.

    Examples
    --------
    >>> print(mp.nstr(adax_step([1], [4], [0], [0], 1, lr=0.25, b1=0.5, eps=0)[0][0], 6))
    0.875
    """
    m = [mp.mpf(b1) * a + (1 - mp.mpf(b1)) * x for a, x in zip(m, g, strict=True)]
    v = [(1 + mp.mpf(b2)) * a + mp.mpf(b2) * mp.mpf(x) ** 2 for a, x in zip(v, g, strict=True)]
    v_hat = [a / ((1 + mp.mpf(b2)) ** t - 1) for a in v]
    return _moved(p, m, v_hat, lr, eps, weight_decay), m, v


def global_norm(leaves: Iterable[Numbers]) -> Any:
    """Euclidean norm of all numbers of all leaves.

    Parameters
    ----------
    leaves : iterable of sequences of numbers
        The flattened leaves.

    Returns
    -------
    mpf
        The norm; 0 where there are no numbers.

    Examples
    --------
    >>> print(mp.nstr(global_norm([[3], [4]]), 6))
    5.0
    """
    return mp.sqrt(mp.fsum(mp.mpf(x) ** 2 for leaf in leaves for x in leaf))


def _moved(p: Numbers, m: Numbers, v: Numbers, lr: float, eps: float, weight_decay: float) -> list[Any]:
    return [
        x - mp.mpf(lr) * _ratio(a, mp.sqrt(b) + mp.mpf(eps)) - mp.mpf(lr) * mp.mpf(weight_decay) * x
        for x, a, b in zip(map(mp.mpf, p), m, v, strict=True)
    ]


def _ratio(a: Any, b: Any) -> Any:
    return mp.mpf(0) if b == 0 else a / b
