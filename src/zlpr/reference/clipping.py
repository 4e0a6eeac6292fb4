"""The twins of clipping, straight from the definitions on lists of numbers, and of the line above measured points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from mpmath import mp

Numbers = Sequence[Any]

_DIGITS = 60


def clip_by_global_norm(leaves: Sequence[Numbers], max_norm: float, *, mode: str = "hard") -> list[list[Any]]:
    """Every number times one factor of the norm of all: min(1, γ/‖g‖), or γ/(γ + ‖g‖) for the soft mode.

    Parameters
    ----------
    leaves : sequence of sequences of numbers
    max_norm : float
    mode : {"hard", "soft"}

    Returns
    -------
    list of lists of mpf
        Where numbers are infinite, the limit: they share the bound, the others are 0.

    Examples
    --------
    >>> print(clip_by_global_norm([[3], [4]], 2.5)[1][0])
    2.0
    """
    with mp.workdps(_DIGITS):
        numbers = [[mp.mpf(x) for x in leaf] for leaf in leaves]
        n_infinite = sum(mp.isinf(x) for leaf in numbers for x in leaf)
        if n_infinite:
            share = mp.mpf(max_norm) / mp.sqrt(n_infinite)
            return [[mp.sign(x) * share if mp.isinf(x) else mp.mpf(0) for x in leaf] for leaf in numbers]
        norm, bound = mp.sqrt(mp.fsum(x**2 for leaf in numbers for x in leaf)), mp.mpf(max_norm)
        factor = (
            bound / (bound + norm) if mode == "soft" else min(mp.mpf(1), bound / norm) if norm else mp.mpf(1)
        )
        return [[factor * x for x in leaf] for leaf in numbers]


def clip_by_norm(leaves: Sequence[Numbers], max_norm: float, *, mode: str = "hard") -> list[list[Any]]:
    """Each leaf clipped by its own norm.

    Parameters
    ----------
    leaves : sequence of sequences of numbers
    max_norm : float
    mode : {"hard", "soft"}

    Returns
    -------
    list of lists of mpf

    Examples
    --------
    >>> print(clip_by_norm([[3], [0.5]], 1.0)[0][0])
    1.0
    """
    return [clip_by_global_norm([leaf], max_norm, mode=mode)[0] for leaf in leaves]


def clip_by_value(numbers: Numbers, max_value: float) -> list[Any]:
    """Each number, or the nearer end of [-γ, γ].

    Parameters
    ----------
    numbers : sequence of numbers
    max_value : float

    Returns
    -------
    list of mpf

    Examples
    --------
    >>> print(clip_by_value([-3], 1.0)[0])
    -1.0
    """
    bound = mp.mpf(max_value)
    return [bound if x > bound else -bound if x < -bound else mp.mpf(x) for x in numbers]


def clip_per_example(
    examples: Iterable[Sequence[Numbers]], max_norm: float, *, mode: str = "hard"
) -> list[list[Any]]:
    """Sum over the examples of their gradients, each clipped by its own norm over all leaves.

    Parameters
    ----------
    examples : iterable of sequences of sequences of numbers
        For each example its leaves.
    max_norm : float
    mode : {"hard", "soft"}

    Returns
    -------
    list of lists of mpf
        For each leaf the sums.

    Examples
    --------
    >>> print(clip_per_example([[[3, 4]], [[0, 0.5]]], 5.0)[0][1])
    4.5
    """
    clipped = [clip_by_global_norm(leaves, max_norm, mode=mode) for leaves in examples]
    with mp.workdps(_DIGITS):
        return [
            [mp.fsum(column) for column in zip(*leaves, strict=True)] for leaves in zip(*clipped, strict=True)
        ]


def adaptive_clip(
    grads: Sequence[Numbers], params: Sequence[Numbers], clipping: float = 0.01, *, eps: float = 1e-3
) -> list[list[Any]]:
    """Each unit's gradient clipped to λ max(‖θ‖, ε), θ the unit's parameters.

    Parameters
    ----------
    grads, params : sequences of sequences of numbers
        The units.
    clipping, eps : float

    Returns
    -------
    list of lists of mpf

    Examples
    --------
    >>> print(adaptive_clip([[6]], [[3]], 0.5)[0][0])
    1.5
    """
    with mp.workdps(_DIGITS):
        bounds = [
            mp.mpf(clipping) * max(mp.sqrt(mp.fsum(mp.mpf(x) ** 2 for x in unit)), mp.mpf(eps))
            for unit in params
        ]
        return [clip_by_global_norm([g], bound)[0] for g, bound in zip(grads, bounds, strict=True)]


def smoothness_bound(gradient_norm: Numbers, smoothness: Numbers) -> tuple[Any, Any]:
    """L₀ and L₁ of the line above all points with the least mean ratio to them, by trying all lines through two.

    Parameters
    ----------
    gradient_norm, smoothness : sequences of numbers
        Smoothness positive.

    Returns
    -------
    l0, l1 : mpf

    Examples
    --------
    >>> from mpmath import nstr
    >>> nstr(smoothness_bound([0, 1, 2], [1, 2, 3])[1], 5)
    '1.0'
    """
    with mp.workdps(_DIGITS):
        points = [(mp.mpf(x), mp.mpf(y)) for x, y in zip(gradient_norm, smoothness, strict=True)]
        lines = [(y, mp.mpf(0)) for _, y in points] + [(mp.mpf(0), y / x) for x, y in points if x]
        for (x0, y0), (x1, y1) in combinations(points, 2):
            if x0 != x1:
                slope = (y1 - y0) / (x1 - x0)
                lines.append((y0 - slope * x0, slope))
        slack = mp.mpf(10) ** (10 - _DIGITS)
        allowed = [
            (l0, l1)
            for l0, l1 in lines
            if l0 >= 0 and l1 >= 0 and all(l0 + l1 * x >= y * (1 - slack) for x, y in points)
        ]
        return min(allowed, key=lambda line: mp.fsum((line[0] + line[1] * x) / y for x, y in points))
