"""Why gradient clipping accelerates: two functions on which plain descent crawls, and a network's smoothness.

``python docs/examples/clipping.py`` prints the table, seven million steps in all; ``--picture
docs/images/smoothness.png`` also draws the smoothness of a small network along its training (needs matplotlib). The
theory is in ``docs/derivations/clipping.md``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from zlpr import nn, optim
from zlpr.activations import tanh
from zlpr.losses import zlpr_loss

TOLERANCE = 1e-6
COSH_STARTS = (2.0, 5.0, 8.0, 10.0, 12.0)
METHODS = ("descent, 1/f''", "descent, 1.9/f''", "hard clipping", "soft clipping")


def steps_of_descent(slope: Callable[[float], float], start: float, rate: float) -> int:
    """Steps of plain descent until the slope is 1e-6 at most: what `optim.sgd` does, in bare numbers for speed."""
    x, count = start, 0
    while abs(g := slope(x)) > TOLERANCE:
        x -= rate * g
        count += 1
    return count


def steps_of(transform: optim.Transform, slope: Callable[[float], float], start: float) -> int:
    """Steps of an optimizer until the slope is 1e-6 at most."""
    x = np.asarray([start])
    state, count = transform.init(x), 0
    while abs(g := slope(float(x[0]))) > TOLERANCE:
        x, state = transform.step(x, np.asarray([g]), state)
        count += 1
    return count


def table_row(
    slope: Callable[[float], float], start: float, curvature: float, l0: float, l1: float
) -> list[int]:
    """Steps of the four methods: the best constant rates for this start, and clipping with what holds for all."""
    return [steps_of_descent(slope, start, factor / curvature) for factor in (1.0, 1.9)] + [
        steps_of(clipped_descent(l0, l1, mode), slope, start) for mode in ("hard", "soft")
    ]


def clipped_descent(l0: float, l1: float, mode: Literal["hard", "soft"]) -> optim.Transform:
    """Descent with the rate 1 / L0, clipped at L0 / L1."""
    return optim.chain(optim.clip_by_global_norm(l0 / l1, mode=mode), optim.sgd(1.0 / l0))


def cosh_row(start: float) -> list[int]:
    """The function cosh, for which L0 = L1 = 1."""
    return table_row(math.sinh, start, math.cosh(start), 1.0, 1.0)


def quartic_row() -> list[int]:
    """The fourth power from 10, which is (16 / L1^2, L1)-smooth for every L1; here L1 is 10."""
    return table_row(lambda x: 4.0 * x * x * x, 10.0, 1200.0, 0.16, 10.0)


def print_table() -> None:
    """Print the step counts as a table of Markdown."""
    print("| function | " + " | ".join(METHODS) + " |")
    print("| --- " * (len(METHODS) + 1) + "|")
    for start in COSH_STARTS:
        print(f"| cosh from {start:g} | " + " | ".join(f"{n:,}" for n in cosh_row(start)) + " |")
    print("| fourth power from 10 | " + " | ".join(f"{n:,}" for n in quartic_row()) + " |")


# --- the smoothness of a network ----------------------------------------------------------------------------


def network_path(steps: int = 400) -> tuple[Callable[[Any], tuple[Any, Any]], Iterator[Any]]:
    """The objective of a small network for several labels, and its parameters at each step of clipped descent."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 20))
    hidden = np.tanh(features @ rng.standard_normal((20, 20)))
    labels = hidden @ rng.standard_normal((20, 6)) > 1.5
    network = nn.sequential(nn.dense, tanh, nn.dense, tanh, nn.dense)

    def value_and_grad(params: Any) -> tuple[Any, Any]:
        scores, pullback = network.vjp(params, features, argnums=0)
        loss, slope = zlpr_loss.value_and_grad(scores, labels)
        return loss, pullback(slope)

    def path() -> Iterator[Any]:
        optimizer = optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(1.0))
        params = nn.dense_parameters((20, 40, 40, 6), features, gain=3.0, rng=1)
        state = optimizer.init(params)
        for _ in range(steps + 1):
            yield params
            params, state = optimizer.step(params, value_and_grad(params)[1], state)

    return value_and_grad, path()


def draw(found: optim.Smoothness, file: str) -> None:
    """Log smoothness against log gradient norm, coloured by step, with the fitted line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")
    steps = np.arange(found.smoothness.size)
    points = axes.scatter(found.gradient_norm, found.smoothness, c=steps, s=8, cmap="viridis")
    norms = np.geomspace(found.gradient_norm.min(), found.gradient_norm.max(), 200)
    axes.plot(norms, found.l0 + found.l1 * norms, "k--", lw=1, label=f"{found.l0:.2g} + {found.l1:.2g} ‖∇f‖")
    axes.set(xscale="log", yscale="log", xlabel="gradient norm ‖∇f‖", ylabel="local smoothness")
    axes.legend(frameon=False, loc="upper left")
    figure.colorbar(points, label="step")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Print the table, and draw the picture if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--picture", metavar="FILE", help="where to draw the smoothness of a network")
    arguments = parser.parse_args()
    print_table()
    if arguments.picture:
        value_and_grad, path = network_path()
        found = optim.estimate_smoothness(value_and_grad, path, points=3, fit="least_squares")
        print(f"network: L0 = {found.l0:.3g}, L1 = {found.l1:.3g}")
        draw(found, arguments.picture)


if __name__ == "__main__":
    main()
