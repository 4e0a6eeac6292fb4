"""Chebyshev coefficients of (1 + 2u) erfcx(u) on [0, inf), in the variable t = (u - SCALE) / (u + SCALE).

Prints the table that `zlpr._special` holds; tests/test_special.py computes it anew and compares. Needs mpmath.
"""

from __future__ import annotations

import mpmath as mp

SCALE = 3
TERMS = 28


def coefficients(terms: int = TERMS, points: int = 128) -> list[mp.mpf]:
    """The first coefficients, from a discrete cosine transform at `points` Chebyshev nodes."""
    with mp.workdps(50):
        angles = [mp.pi * (k + mp.mpf(1) / 2) / points for k in range(points)]
        values = []
        for angle in angles:
            t = mp.cos(angle)
            u = SCALE * (1 + t) / (1 - t)
            values.append((1 + 2 * u) * (mp.exp(u * u) * mp.erfc(u) if u < 50 else _erfcx_series(u)))
        return [
            mp.fsum(v * mp.cos(j * a) for v, a in zip(values, angles, strict=True))
            * (1 if j == 0 else 2)
            / points
            for j in range(terms)
        ]


def _erfcx_series(u: mp.mpf) -> mp.mpf:
    """The asymptotic series; at u >= 50 twenty terms give far more digits than are kept."""
    total, term = mp.mpf(1), mp.mpf(1)
    for k in range(1, 21):
        term *= -mp.mpf(2 * k - 1) / (2 * u * u)
        total += term
    return total / (u * mp.sqrt(mp.pi))


if __name__ == "__main__":
    for c in coefficients():
        print(f"    {float(c)!r},")
