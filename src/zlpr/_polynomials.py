"""Products of many linear polynomials with coefficients that are not negative, and what each factor is multiplied by.

The coefficients of ``Π (a_i + b_i x)`` are sums over the subsets of the factors, grouped by size. Nodes are multiplied
two by two, in as many array steps as the number of factors has binary digits; the same tree, walked down, gives the
derivative in every ``a_i`` and ``b_i``, which is the product of all the others: nothing is divided or subtracted.
Arrays are (D + 1, B, N): coefficients, rows, nodes.
"""

from __future__ import annotations

from typing import NamedTuple

from zlpr import _array, _ops
from zlpr._array import Array


class ProductTree(NamedTuple):
    """The levels of a product, from its factors to the whole, coefficients beyond `degree` left out."""

    levels: tuple[Array, ...]
    degree: int

    @classmethod
    def of(cls, constants: Array, slopes: Array, degree: int) -> ProductTree:
        """The product along the last axis of ``constants + slopes * x``, (B, N) each with N at least 1."""
        xp = _array.namespace(constants)
        factors = (constants, slopes) if degree else (constants,)
        levels = [xp.stack(factors, axis=0)]
        while levels[-1].shape[-1] > 1:
            levels.append(_merged(levels[-1], degree))
        return cls(tuple(levels), degree)

    def coefficients(self) -> Array:
        """Those of the whole product, (D + 1, B); D may be less than the degree asked for."""
        return self.levels[-1][..., 0]

    def adjoints(self, top: Array) -> tuple[Array, Array]:
        """The derivatives in the constants and the slopes, (B, N) each, when those in the coefficients are `top`."""
        adjoint = top[..., None]
        for level in reversed(self.levels[:-1]):
            left, right, rest = _halves(level)
            of_pairs = adjoint[..., : left.shape[-1]]
            size = level.shape[0]
            parts = [_correlation(of_pairs, right, size), _correlation(of_pairs, left, size)]
            if rest is not None:
                parts.append(adjoint[:size, :, left.shape[-1] :])
            adjoint = _array.namespace(level).concat(parts, axis=-1)
        return _both(adjoint)

    def tangents(self, slopes: Array) -> tuple[Array, ...]:
        """How the levels move when the slopes of the factors move, (B, N)."""
        xp = _array.namespace(slopes)
        zeros = xp.zeros_like(slopes)
        levels = [xp.stack((zeros, slopes) if self.degree else (zeros,), axis=0)]
        for level in self.levels[:-1]:
            levels.append(_merged_tangent(level, levels[-1], self.degree))
        return tuple(levels)

    def adjoint_tangents(
        self, top: Array, tangents: tuple[Array, ...], top_tangent: Array
    ) -> tuple[Array, Array]:
        """How the derivatives in the slopes move: they and their tangent, (B, N) each."""
        adjoint, moving = top[..., None], top_tangent[..., None]
        for level, tangent in zip(reversed(self.levels[:-1]), reversed(tangents[:-1]), strict=True):
            (left, right, rest), (left_moves, right_moves, _) = _halves(level), _halves(tangent)
            pairs, size = left.shape[-1], level.shape[0]
            a, da = adjoint[..., :pairs], moving[..., :pairs]
            parts = [_correlation(a, right, size), _correlation(a, left, size)]
            moves = [
                _correlation(da, right, size) + _correlation(a, right_moves, size),
                _correlation(da, left, size) + _correlation(a, left_moves, size),
            ]
            if rest is not None:
                parts.append(adjoint[:size, :, pairs:])
                moves.append(moving[:size, :, pairs:])
            concat = _array.namespace(level).concat
            adjoint, moving = concat(parts, axis=-1), concat(moves, axis=-1)
        return _both(adjoint)[1], _both(moving)[1]


def _both(adjoint: Array) -> tuple[Array, Array]:
    """The derivatives in the constants and in the slopes; a product of degree 0 has no slopes."""
    constants = adjoint[0, ...]
    slopes = adjoint[1, ...] if adjoint.shape[0] > 1 else _array.namespace(constants).zeros_like(constants)
    return constants, slopes


def _halves(level: Array) -> tuple[Array, Array, Array | None]:
    """The nodes that are multiplied with each other, and the one that is left where their number is odd."""
    nodes = level.shape[-1]
    half = nodes // 2
    rest = level[..., 2 * half :] if nodes % 2 else None
    return level[..., :half], level[..., half : 2 * half], rest


def _merged(level: Array, degree: int) -> Array:
    left, right, rest = _halves(level)
    product = _product(left, right, degree)
    return product if rest is None else _with_rest(product, rest)


def _merged_tangent(level: Array, tangent: Array, degree: int) -> Array:
    (left, right, _), (left_moves, right_moves, rest) = _halves(level), _halves(tangent)
    moved = _ops.add_(_product(left_moves, right, degree), _product(left, right_moves, degree))
    return moved if rest is None else _with_rest(moved, rest)


def _with_rest(products: Array, rest: Array) -> Array:
    padded = _padded(rest, 0, products.shape[0] - rest.shape[0])
    return _array.namespace(products).concat((products, padded), axis=-1)


def _padded(x: Array, before: int, after: int) -> Array:
    """Zeros before and after the coefficients."""
    xp = _array.namespace(x)

    def zeros(count: int) -> Array:
        return xp.zeros((count, *x.shape[1:]), dtype=x.dtype, device=_array.device(x))

    parts = [*([zeros(before)] if before else []), x, *([zeros(after)] if after else [])]
    return xp.concat(parts, axis=0) if len(parts) > 1 else x


def _product(x: Array, y: Array, degree: int) -> Array:
    """``Σ_a x[a] y[m - a]`` for m up to the degree."""
    order = x.shape[0] - 1
    count = min(2 * order, degree) + 1
    padded = _padded(y, order, count - y.shape[0])
    total = x[0, ...] * padded[order : order + count, ...]
    for a in range(1, order + 1):
        total = _ops.add_(total, x[a, ...] * padded[order - a : order - a + count, ...])
    return total


def _correlation(x: Array, y: Array, count: int) -> Array:
    """``Σ_b x[m + b] y[b]`` for m below the count; x is 0 beyond its end."""
    order = y.shape[0] - 1
    padded = _padded(x, 0, max(0, count + order - x.shape[0]))
    total = padded[:count, ...] * y[0, ...]
    for b in range(1, order + 1):
        total = _ops.add_(total, padded[b : b + count, ...] * y[b, ...])
    return total
