"""Where the constants of GELU's approximations come from: Taylor series, and the best uniform fit by Remez exchange.

Everything is computed with mpmath when it is asked for. The algebra is in ``docs/derivations/activations.md``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

__all__ = ["GeluFit", "fit_gelu"]

_POWERS = {"sigmoid": (1,), "tanh": (1, 3), "quintic": (1, 3, 5)}
_DIGITS = 30
_REACH, _STEPS = (
    8,
    320,
)  # beyond 8 neither the share nor an approximation is further than 1e-11 from its limit


class GeluFit(NamedTuple):
    """The constants of one approximation, and how far off it is.

    Parameters
    ----------
    slope, cubic, quintic : float
        The share is σ(slope x) in the form ``"sigmoid"``; in the others it is (1 + tanh u) / 2 with
        u = slope (x + cubic x³ + quintic x⁵). Constants that a form lacks are 0.
    error : float
        Largest absolute error of the target anywhere.
    extrema : tuple of float
        Positive places of the extrema of the error.

    Examples
    --------
    >>> from zlpr.activations import fit_gelu
    >>> round(fit_gelu("sigmoid", criterion="taylor").slope, 6)  # 2 sqrt(2 / pi)
    1.595769
    """

    slope: float
    cubic: float
    quintic: float
    error: float
    extrema: tuple[float, ...]


def fit_gelu(
    form: Literal["tanh", "sigmoid", "quintic"],
    *,
    criterion: Literal["minimax", "taylor"] = "minimax",
    target: Literal["gelu", "cdf"] = "gelu",
    free_slope: bool = False,
) -> GeluFit:
    r"""Constants of an approximation of GELU, computed with mpmath.

    .. math::

        \Phi(x) \approx \sigma(a x), \qquad
        \Phi(x) \approx \tfrac12 \big(1 + \tanh(a (x + b x^3 + c x^5))\big)

    Parameters
    ----------
    form : {"tanh", "sigmoid", "quintic"}
        ``"sigmoid"`` has the constant a, ``"tanh"`` a and b, ``"quintic"`` a, b and c.
    criterion : {"minimax", "taylor"}, default "minimax"
        The least largest error, or agreement of the series at 0 as far as the constants reach.
    target : {"gelu", "cdf"}, default "gelu"
        What is approximated: :math:`x\,\Phi(x)`, or :math:`\Phi(x)`.
    free_slope : bool, default False
        Whether a is fitted as well where there are other constants; else it is :math:`\sqrt{2/\pi}`, which makes the
        slope of Φ at 0 right. The form ``"sigmoid"`` has nothing else to fit.

    Returns
    -------
    GeluFit
        ``slope`` a, ``cubic`` b, ``quintic`` c, the largest ``error`` and the ``extrema`` of it.

    Raises
    ------
    ValueError
        If an option is none of those above.
    ImportError
        If mpmath is not installed.

    Notes
    -----
    With c < 0 the argument of tanh would turn back; beyond its inflection point it is continued by its tangent there.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 7309, for the criteria ``"taylor"`` and ``"minimax"`` of Φ.
    .. [2] E. Ya. Remez, "Sur la détermination des polynômes d'approximation de degré donnée", Communications of the
       Kharkov Mathematical Society 10, 1934.

    Examples
    --------
    >>> from zlpr.activations import fit_gelu
    >>> round(fit_gelu("tanh", target="cdf").cubic, 6)  # published as 0.044715
    0.044715
    >>> round(fit_gelu("sigmoid", target="cdf").slope, 3)  # published as 1.702
    1.702
    """
    _check("form", form, tuple(_POWERS))
    _check("criterion", criterion, ("minimax", "taylor"))
    _check("target", target, ("gelu", "cdf"))
    mp = _mpmath()
    with mp.workdps(_DIGITS):
        series = _taylor(mp, _POWERS[form])
        fit = _Fit(mp, series, weight=1 if target == "gelu" else 0)
        if criterion == "minimax":
            fit.level([1] if form == "sigmoid" else [p for p in series if p > 1 or free_slope])
        return fit.result(2 if form == "sigmoid" else 1)


def _check(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        *most, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {', '.join(most)} or {last}, not {value!r}")


def _mpmath() -> Any:
    try:
        from mpmath import mp
    except ImportError as error:
        raise ImportError('fit_gelu needs mpmath: pip install "zlpr[validate]"') from error
    return mp


def _taylor(mp: Any, powers: tuple[int, ...]) -> dict[int, Any]:
    """Coefficients at 0 of the u for which (1 + tanh u) / 2 is Φ, from the series of artanh(erf(x / √2))."""
    a = mp.sqrt(2 / mp.pi)
    every = {1: a, 3: a**3 / 3 - a / 6, 5: a**5 / 5 - a**3 / 6 + a / 40}
    return {power: every[power] for power in powers}


class _Fit:
    """An approximation of ``x^weight Φ(x)`` by the coefficients of u, and the extrema of its error."""

    def __init__(self, mp: Any, coefficients: dict[int, Any], weight: int) -> None:
        self.mp, self.coefficients, self.weight = mp, dict(coefficients), weight

    def level(self, free: list[int]) -> None:
        """Remez exchange: make the errors equal at alternating places, move the places to the extrema, repeat."""
        count, settled = len(free) + 1, self.mp.mpf(10) ** (5 - _DIGITS)
        places = [self.mp.mpf(4 * (i + 1)) / (count + 1) for i in range(count)]
        for _ in range(30):
            self._solve(free, places)
            before, places = places, self._alternating(count)
            if max(abs(x - y) for x, y in zip(before, places, strict=True)) < settled:
                return
        raise ArithmeticError("the exchange did not settle")

    def _solve(self, free: list[int], places: list[Any]) -> None:
        """Newton's method for coefficients with the errors E, -E, E ... at the places."""
        mp, level = self.mp, self.mp.mpf(0)
        for _ in range(60):
            signs = [(-1) ** i for i in range(len(places))]
            residuals = mp.matrix([self.error(x) - s * level for x, s in zip(places, signs, strict=True)])
            slopes = mp.matrix(
                [
                    [*(-self._sensitivity(x) * x**power for power in free), -s]
                    for x, s in zip(places, signs, strict=True)
                ]
            )
            step = mp.lu_solve(slopes, -residuals)
            for power, change in zip(free, step, strict=False):  # the last entry is the level's
                self.coefficients[power] += change
            level += step[len(free)]
            if mp.norm(step, mp.inf) < mp.mpf(10) ** (3 - _DIGITS):
                return
        raise ArithmeticError("Newton's method did not settle")

    def _alternating(self, count: int) -> list[Any]:
        """The places of the largest errors, `count` of them with signs in turn."""
        runs: list[Any] = []
        for x in self.extrema():
            same = runs and self.error(runs[-1]) * self.error(x) > 0
            if not same:
                runs.append(x)
            elif abs(self.error(x)) > abs(self.error(runs[-1])):
                runs[-1] = x
        while len(runs) > count:
            runs.pop(0 if abs(self.error(runs[0])) < abs(self.error(runs[-1])) else -1)
        if len(runs) < count:
            raise ArithmeticError(f"the error has {len(runs)} extrema in turn where {count} are needed")
        return runs

    def extrema(self) -> list[Any]:
        """Positive zeros of the derivative of the error."""
        grid = [self.mp.mpf(_REACH * (i + 1)) / _STEPS for i in range(_STEPS)]
        slopes = [self._slope_of_error(x) for x in grid]
        return [
            self.mp.findroot(self._slope_of_error, (grid[i], grid[i + 1]), solver="anderson")
            for i in range(_STEPS - 1)
            if slopes[i] * slopes[i + 1] < 0
        ]

    def error(self, x: Any) -> Any:
        """The target less its approximation."""
        return x**self.weight * (self.mp.ncdf(x) - self._share(x))

    def _share(self, x: Any) -> Any:
        return 1 / (1 + self.mp.exp(-2 * self._argument(x)[0]))

    def _sensitivity(self, x: Any) -> Any:
        """Derivative of the approximation with respect to u."""
        share = self._share(x)
        return x**self.weight * 2 * share * (1 - share)

    def _slope_of_error(self, x: Any) -> Any:
        share, du = self._share(x), self._argument(x)[1]
        slope = x**self.weight * (self.mp.npdf(x) - 2 * share * (1 - share) * du)
        return slope + self.weight * (self.mp.ncdf(x) - share)

    def _argument(self, x: Any) -> tuple[Any, Any]:
        """The argument u of tanh at a positive x and its derivative, beyond the inflection point by its tangent."""
        cubic, quintic = self.coefficients.get(3, 0), self.coefficients.get(5, 0)
        end = self.mp.sqrt(-3 * cubic / (10 * quintic)) if cubic > 0 > quintic else x
        inside = min(x, end)
        u = sum(c * inside**power for power, c in self.coefficients.items())
        du = sum(c * power * inside ** (power - 1) for power, c in self.coefficients.items())
        return u + du * (x - inside), du

    def result(self, slope_factor: int) -> GeluFit:
        """The constants in their published form, with the slope in front."""
        slope = self.coefficients[1]
        cubic, quintic = (self.coefficients.get(power, 0) / slope for power in (3, 5))
        places = self.extrema()
        error = max(abs(self.error(x)) for x in places)
        return GeluFit(
            float(slope_factor * slope), float(cubic), float(quintic), float(error), tuple(map(float, places))
        )
