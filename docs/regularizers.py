"""The table and the picture of docs/regularizers.md: a small problem in the plane under each regulariser.

``python docs/regularizers.py`` prints the table; ``--picture docs/images/regularizers.png`` also draws the decision
boundaries (needs matplotlib).
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning

from zlpr.activations import sigmoid
from zlpr.models import MultilabelClassifier

Array = np.ndarray[Any, Any]

STEPS = 600
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "noise, σ = 0.2": {"noise": 0.2},
    "penalty, weight 2": {"gradient_penalty": 2.0},
    "FGM, ε = 0.2": {"adversarial": "fgm", "adversarial_epsilon": 0.2},
    "VAT, ε = 0.2": {"adversarial": "vat", "adversarial_epsilon": 0.2},
}


def moons() -> tuple[Array, Array, Array]:
    """Points of two half circles, their labels, and the three of each that are known: nan for the others."""
    X, y = make_moons(200, noise=0.1, shuffle=False, random_state=0)  # each in order from end to end
    known = np.full(200, np.nan)
    chosen = [start + i for start in (0, 100) for i in (16, 50, 84)]
    known[chosen] = y[chosen]
    return X, y, known


def fitted(X: Array, known: Array, **params: Any) -> MultilabelClassifier:
    """A network of 30 and 30; VAT alone sees the points without labels."""
    if params.get("adversarial") != "vat":
        X, known = X[~np.isnan(known)], known[~np.isnan(known)]
    model = MultilabelClassifier(
        (30, 30), max_iter=STEPS, batch_size=200, tol=0.0, n_iter_no_change=STEPS, random_state=0, **params
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, known)


def probability(model: MultilabelClassifier, X: Array) -> Array:
    """Of the second class."""
    return np.asarray(sigmoid(model.decision_function(X)))


def steepness(model: MultilabelClassifier, X: Array) -> float:
    """Mean length of the slope of the probability at the points, by differences."""
    h = 1e-5
    slopes = [(probability(model, X + h * e) - probability(model, X - h * e)) / (2 * h) for e in np.eye(2)]
    return float(np.mean(np.hypot(*slopes)))


def table(models: dict[str, MultilabelClassifier], X: Array, y: Array) -> str:
    """What each model makes of all points."""
    lines = ["| | right, of 200 | mean slope of the probability |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {np.sum(model.predict(X) == y)} | {steepness(model, X):.2f} |"
        for name, model in models.items()
    ]
    return "\n".join(lines)


def draw(models: dict[str, MultilabelClassifier], X: Array, known: Array, path: str) -> None:
    """The probability as colour, the decision boundary as a line, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x, y = np.meshgrid(np.linspace(-1.6, 2.6, 211), np.linspace(-1.2, 1.7, 146))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    figure, axes = plt.subplots(1, len(models), figsize=(15, 2.5), layout="constrained", sharey=True)
    for axis, (name, model) in zip(axes, models.items(), strict=True):
        shades = probability(model, grid).reshape(x.shape)
        shown = axis.imshow(
            shades, extent=(-1.6, 2.6, -1.2, 1.7), origin="lower", cmap="RdBu", vmin=-0.6, vmax=1.6
        )
        shown.set_interpolation("bilinear")
        axis.contour(x, y, shades, levels=[0.5], colors="black", linewidths=1.2)
        axis.contour(x, y, shades, levels=[0.1, 0.9], colors="black", linewidths=0.6, linestyles="dotted")
        axis.scatter(*X.T, s=6, color="0.25", linewidths=0)
        for label, colour in ((0, "#b2182b"), (1, "#2166ac")):
            axis.scatter(*X[known == label].T, s=60, color=colour, edgecolors="white", linewidths=1.2)
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Print the table; draw on demand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", help="file to draw the decision boundaries into")
    asked = parser.parse_args()
    X, y, known = moons()
    models = {name: fitted(X, known, **params) for name, params in METHODS.items()}
    print(table(models, X, y))
    if asked.picture:
        draw(models, X, known, asked.picture)


if __name__ == "__main__":
    main()
