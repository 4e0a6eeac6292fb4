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
    convention: str = "torch",
) -> tuple[list[Any], list[Any], list[Any]]:
    """One step of Adam, or of AdamW, from parameters, gradients and uncorrected moments.

    Parameters
    ----------
    p, g, m, v : sequences of numbers
        Parameters, gradients, first and second moment.
    t : int
        The step, counted from 1.
    lr, b1, b2, eps, weight_decay, convention
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
    eps = mp.mpf(eps) / mp.sqrt(1 - mp.mpf(b2) ** t) if convention == "keras" else eps
    rate_of_decay = 1 if convention == "paper" else lr
    return _moved(p, m_hat, _plus_outside(v_hat, eps), lr, rate_of_decay * mp.mpf(weight_decay)), m, v


def amsgrad_step(
    p: Numbers,
    g: Numbers,
    m: Numbers,
    v: Numbers,
    v_max: Numbers,
    t: int,
    *,
    lr: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    convention: str = "torch",
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """One step of AMSGrad, from parameters, gradients, uncorrected moments and the greatest second moments.

    Parameters
    ----------
    p, g, m, v, v_max : sequences of numbers
        Parameters, gradients, first and second moment; with ``convention="optax"``, `v_max` is that of the corrected
        second moments, else of the uncorrected ones.
    t : int
        The step, counted from 1.
    lr, b1, b2, eps, convention
        As in `zlpr.optim.amsgrad`.

    Returns
    -------
    p, m, v, v_max : lists of mpf
        After the step.

    References
    ----------
    arXiv:1904.09237, algorithm 2.

    Examples
    --------
    >>> print(mp.nstr(amsgrad_step([1], [4], [0], [0], [0], 1, lr=0.25, eps=0)[0][0], 6))
    0.75
    """
    m = [mp.mpf(b1) * a + (1 - mp.mpf(b1)) * x for a, x in zip(m, g, strict=True)]
    v = [mp.mpf(b2) * a + (1 - mp.mpf(b2)) * mp.mpf(x) ** 2 for a, x in zip(v, g, strict=True)]
    left1, left2 = 1 - mp.mpf(b1) ** t, 1 - mp.mpf(b2) ** t
    seen = [a / left2 for a in v] if convention == "optax" else v
    v_max = [max(mp.mpf(a), b) for a, b in zip(v_max, seen, strict=True)]
    used = [a / left2 for a in v_max] if convention in ("torch", "keras") else v_max
    step = m if convention == "paper" else [a / left1 for a in m]
    eps = mp.mpf(eps) / mp.sqrt(left2) if convention == "keras" else eps
    return _moved(p, step, _plus_outside(used, eps), lr, 0), m, v, v_max


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
    convention: str = "paper",
) -> tuple[list[Any], list[Any], list[Any]]:
    """One step of AdaX, or of AdaX-W, from parameters, gradients and uncorrected moments.

    Parameters
    ----------
    p, g, m, v : sequences of numbers
        Parameters, gradients, first and second moment.
    t : int
        The step, counted from 1.
    lr, b1, b2, eps, weight_decay, convention
        As in `zlpr.optim.adaxw`.

    Returns
    -------
    p, m, v : lists of mpf
        After the step.

    References
    ----------
    arXiv:2004.09740, algorithm 1; where eps stands is in ``docs/derivations/optim.md``.

    Examples
    --------
    >>> print(mp.nstr(adax_step([1], [4], [0], [0], 1, lr=0.25, b1=0.5, eps=0)[0][0], 6))
    0.875
    """
    m = [mp.mpf(b1) * a + (1 - mp.mpf(b1)) * x for a, x in zip(m, g, strict=True)]
    v = [(1 + mp.mpf(b2)) * a + mp.mpf(b2) * mp.mpf(x) ** 2 for a, x in zip(v, g, strict=True)]
    grown = (1 + mp.mpf(b2)) ** t - 1
    v_hat = [a / grown for a in v]
    if convention == "post":
        roots = [mp.sqrt(a + mp.mpf(eps)) for a in v_hat]
    elif convention == "official":
        roots = [a / mp.sqrt(grown) for a in _plus_outside(v, eps)]
    else:
        roots = _plus_outside(v_hat, eps)
    return _moved(p, m, roots, lr, lr * mp.mpf(weight_decay)), m, v


def rmsprop_step(
    p: Numbers,
    g: Numbers,
    m: Numbers,
    v: Numbers,
    buffer: Numbers,
    t: int,
    *,
    lr: float,
    decay: float = 0.9,
    eps: float = 1e-8,
    centered: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
    bias_correction: bool = False,
    convention: str = "optax",
) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """One step of RMSprop, from parameters, gradients, uncorrected averages and the buffer of the momentum.

    Parameters
    ----------
    p, g, m, v, buffer : sequences of numbers
        Parameters, gradients, average gradient and square, and the decayed sum of the steps.
    t : int
        The step, counted from 1.
    lr, decay, eps, centered, momentum, nesterov, bias_correction, convention
        As in `zlpr.optim.rmsprop`.

    Returns
    -------
    p, m, v, buffer : lists of mpf
        After the step.

    References
    ----------
    Hinton, lecture 6e, 2012; centered: arXiv:1308.0850, equation 40.

    Examples
    --------
    >>> print(mp.nstr(rmsprop_step([1], [4], [0], [0], [0], 1, lr=0.1, decay=0.75, eps=0)[0][0], 6))
    0.8
    """
    decay = mp.mpf(decay)
    m = [decay * a + (1 - decay) * x for a, x in zip(m, g, strict=True)]
    v = [decay * a + (1 - decay) * mp.mpf(x) ** 2 for a, x in zip(v, g, strict=True)]
    left = 1 - decay**t if bias_correction else mp.mpf(1)
    spread = [b / left - (a / left) ** 2 if centered else b / left for a, b in zip(m, v, strict=True)]
    if convention == "optax":
        roots, inner, outer = [mp.sqrt(a + mp.mpf(eps)) for a in spread], mp.mpf(lr), mp.mpf(1)
    else:
        roots, inner, outer = _plus_outside(spread, eps), mp.mpf(1), mp.mpf(lr)
    step = [inner * _ratio(mp.mpf(x), root) for x, root in zip(g, roots, strict=True)]
    buffer = [mp.mpf(momentum) * b + s for b, s in zip(buffer, step, strict=True)]
    used = [s + mp.mpf(momentum) * b for s, b in zip(step, buffer, strict=True)] if nesterov else buffer
    return [mp.mpf(x) - outer * u for x, u in zip(p, used, strict=True)], m, v, buffer


def sgd_step(
    p: Numbers,
    g: Numbers,
    m: Numbers,
    *,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    convention: str = "torch",
) -> tuple[list[Any], list[Any]]:
    """One step of gradient descent with momentum, from parameters, gradients and momentum.

    Parameters
    ----------
    p, g, m : sequences of numbers
        Parameters, gradients, and the decayed sum of the gradients; of the steps with ``convention="paper"``.
    lr, momentum, nesterov, convention
        As in `zlpr.optim.sgd`.

    Returns
    -------
    p, m : lists of mpf
        After the step.

    Examples
    --------
    >>> print(mp.nstr(sgd_step([1], [2], [2], lr=0.1, momentum=0.5)[0][0], 6))
    0.7
    """
    inner, outer = (mp.mpf(lr), mp.mpf(1)) if convention == "paper" else (mp.mpf(1), mp.mpf(lr))
    m = [mp.mpf(momentum) * a + inner * x for a, x in zip(m, g, strict=True)]
    used = [inner * x + mp.mpf(momentum) * a for a, x in zip(m, g, strict=True)] if nesterov else m
    return [mp.mpf(x) - outer * u for x, u in zip(p, used, strict=True)], m


def adafactor_step(
    p: Sequence[Numbers],
    g: Sequence[Numbers],
    row: Numbers,
    column: Numbers,
    t: int,
    *,
    lr: float | None = None,
    decay_rate: float = 0.8,
    clipping_threshold: float = 1.0,
    eps: float = 1e-30,
    eps_scale: float = 1e-3,
) -> tuple[list[list[Any]], list[Any], list[Any]]:
    """One step of AdaFactor on a matrix, from parameters, gradients and the *sums* of rows and columns.

    Parameters
    ----------
    p, g : sequences of rows
        Parameters and gradients.
    row, column : sequences of numbers
        Averages over the steps of the sums of squares along the rows, and along the columns.
    t : int
        The step, counted from 1.
    lr, decay_rate, clipping_threshold, eps, eps_scale
        As in `zlpr.optim.adafactor`.

    Returns
    -------
    p : list of rows
        After the step.
    row, column : lists of mpf
        After the step.

    References
    ----------
    arXiv:1804.04235, algorithms 4 and 5.

    Examples
    --------
    >>> p, row, column = adafactor_step([[1, 1]], [[3, 3]], [0], [0, 0], 1, lr=0.25)
    >>> print(mp.nstr(p[0][0], 6), mp.nstr(row[0], 6))
    0.75 18.0
    """
    beta = 1 - mp.mpf(t) ** -mp.mpf(decay_rate)
    squares = [[mp.mpf(x) ** 2 + mp.mpf(eps) for x in line] for line in g]
    row = [beta * a + (1 - beta) * mp.fsum(line) for a, line in zip(row, squares, strict=True)]
    column = [
        beta * a + (1 - beta) * mp.fsum(line)
        for a, line in zip(column, zip(*squares, strict=True), strict=True)
    ]
    total = mp.fsum(row)
    u = [
        [x / mp.sqrt(r * c / total) for x, c in zip(line, column, strict=True)]
        for line, r in zip(g, row, strict=True)
    ]
    step = min(mp.mpf("0.01"), 1 / mp.sqrt(t)) if lr is None else mp.mpf(lr)
    size = (
        step
        * max(mp.mpf(eps_scale), _root_mean_square(p))
        / max(1, _root_mean_square(u) / clipping_threshold)
    )
    moved = [[mp.mpf(x) - size * y for x, y in zip(a, b, strict=True)] for a, b in zip(p, u, strict=True)]
    return moved, row, column


def average(values: Sequence[Numbers], decay: float) -> list[Any]:
    """Exponential average of what has been, corrected for its beginning: the newest weighs most.

    Parameters
    ----------
    values : sequence of sequences of numbers
        One for each step.
    decay : float
        In (0, 1].

    Returns
    -------
    list of mpf
        The average.

    Examples
    --------
    >>> print(mp.nstr(average([[3], [6]], 0.5)[0], 6))
    5.0
    """
    weights = [mp.mpf(decay) ** (len(values) - 1 - i) for i in range(len(values))]
    return [mp.fdot(weights, column) / mp.fsum(weights) for column in zip(*values, strict=True)]


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


def _moved(p: Numbers, m: Numbers, roots: Numbers, lr: float, decay: Any) -> list[Any]:
    return [
        x - mp.mpf(lr) * _ratio(a, b) - mp.mpf(decay) * x
        for x, a, b in zip(map(mp.mpf, p), m, roots, strict=True)
    ]


def _plus_outside(v: Numbers, eps: Any) -> list[Any]:
    return [mp.sqrt(a) + mp.mpf(eps) for a in v]


def _root_mean_square(rows: Sequence[Numbers]) -> Any:
    entries = [mp.mpf(x) ** 2 for line in rows for x in line]
    return mp.sqrt(mp.fsum(entries) / len(entries))


def _ratio(a: Any, b: Any) -> Any:
    return mp.mpf(0) if b == 0 else a / b
