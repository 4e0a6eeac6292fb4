"""The tables of docs/gelu.md, and the curves of the errors.

``python docs/gelu.py`` prints the tables; ``--picture docs/images/gelu_errors.png`` also draws the curves (needs
matplotlib). Both need mpmath.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from zlpr.activations import GeluFit, fit_gelu, gelu, sigmoid, tanh

Curve = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
CASES = (
    ("sigmoid", False, "taylor", "gelu"),
    ("sigmoid", False, "minimax", "cdf"),
    ("sigmoid", False, "minimax", "gelu"),
    ("tanh", False, "taylor", "gelu"),
    ("tanh", False, "minimax", "cdf"),
    ("tanh", False, "minimax", "gelu"),
    ("tanh", True, "minimax", "gelu"),
    ("quintic", False, "minimax", "gelu"),
    ("quintic", True, "minimax", "gelu"),
)
X = np.linspace(0.0, 8.0, 4001)  # the errors of GELU are even


def fits() -> Iterator[tuple[str, str, str, GeluFit]]:
    """Form, free constants, criterion and constants, line by line."""
    for form, free, criterion, target in CASES:
        fit = fit_gelu(form, criterion=criterion, target=target, free_slope=free)  # type: ignore[arg-type]  # literals
        aim = {"gelu": "GELU", "cdf": "Φ"}[target]
        yield (
            form,
            "a" * (free or form == "sigmoid"),
            f"minimax, {aim}" if criterion == "minimax" else "Taylor",
            fit,
        )


def approximation(form: str, fit: GeluFit) -> Curve:
    """``x`` times the share of these constants."""

    def curve(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if form == "sigmoid":
            return np.asarray(x * sigmoid(fit.slope * x))
        end = np.sqrt(-0.3 * fit.cubic / fit.quintic) if fit.quintic else np.inf
        at = np.minimum(x, end)
        steepness = fit.slope * (1 + 3 * fit.cubic * at**2 + 5 * fit.quintic * at**4)
        u = fit.slope * (at + fit.cubic * at**3 + fit.quintic * at**5) + steepness * (x - at)
        return np.asarray(x * (1 + tanh(u)) / 2)

    return curve


def table() -> str:
    """The constants and the largest error of GELU, of every fit."""
    lines = [
        "| form | criterion | a | b | c | largest error of GELU |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for form, free, criterion, fit in fits():
        error = np.max(np.abs(approximation(form, fit)(X) - gelu(X)))
        fixed = "" if free else " (fixed)"
        constants = [
            f"{fit.slope:.12g}{fixed}",
            *(f"{c:.12g}" if c else "" for c in (fit.cubic, fit.quintic)),
        ]
        lines.append("| " + " | ".join([form, criterion, *constants, f"{error:.3e}"]) + " |")
    return "\n".join(lines)


def offered_table() -> str:
    """The largest errors of what `gelu` offers: value, first and second derivative."""
    x = np.linspace(-8.0, 8.0, 8001)
    exact = gelu.value_grad_hess(x)
    lines = ["| `approximate` | value | derivative | second derivative |", "| --- | --- | --- | --- |"]
    for name in ("sigmoid", "tanh", "minimax"):
        parts = zip(gelu.value_grad_hess(x, approximate=name), exact, strict=True)
        errors = [f"{np.max(np.abs(part - truth)):.2e}" for part, truth in parts]
        lines.append("| " + " | ".join([f'`"{name}"`', *errors]) + " |")
    return "\n".join(lines)


def draw(path: str) -> None:
    """Error curves, the two published forms beside those that are minimax for GELU itself."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    panels = {
        "sigmoid": "x σ(a x)",
        "tanh": "x (1 + tanh a(x + b x³)) / 2",
        "quintic": "… + c x⁵ in the argument",
    }
    units = {"sigmoid": 1e-2, "tanh": 1e-4, "quintic": 1e-5}
    for form, free, criterion, fit in fits():
        axis = axes[tuple(panels).index(form)]
        label = criterion + (", a free" if free and form != "sigmoid" else "")
        axis.plot(X, (approximation(form, fit)(X) - gelu(X)) / units[form], label=label)
    for axis, (form, title) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set(
            title=title,
            xlabel="x",
            ylabel=f"error of GELU / {units[form]:.0e}",
            xlim=(0, 6),
        )
        axis.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Print the tables; draw on demand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", help="file to draw the curves into")
    asked = parser.parse_args()
    print(table(), offered_table(), sep="\n\n")
    if asked.picture:
        draw(asked.picture)


if __name__ == "__main__":
    main()
