"""The tables and the pictures of docs/vae.md, from codes of scikit-learn's digits.

``python docs/vae.py`` prints the tables; ``--pictures docs/images`` also draws the pictures (needs matplotlib). It
trains some twenty small models, in a few minutes.
"""

from __future__ import annotations

import argparse
import functools
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi, norm
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from zlpr.entropy import knn_entropy
from zlpr.losses import gaussian_kl
from zlpr.models import EntropicAutoencoder, VariationalAutoencoder

Matrix = np.ndarray[Any, Any]
Model = EntropicAutoencoder | VariationalAutoencoder

EPOCHS = 200
TITLES = {"AE": "plain AE", "VAE": "VAE, w = 0.1", "EAE": "EAE, λ = 0.1"}
COVERAGE_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
COLLAPSE_WEIGHTS = (0.05, 0.2, 0.5, 1.0)
COLLAPSE_DIM = 16
DRAWS = 10_000
COLOURS = (
    "#4c72b0",
    "#dd8452",
    "#55a868",
    "#c44e52",
    "#8172b3",
    "#937860",
    "#da8bc3",
    "#8c8c8c",
    "#ccb974",
    "#64b5cd",
)


@functools.cache
def digits() -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Training images and digits, test images and digits; pixels between 0 and 1."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[: 2 * len(X) // 3], order[2 * len(X) // 3 :]
    return X[train], y[train], X[test], y[test]


@functools.cache
def fitted(kind: str, latent_dim: int, weight: float = 0.1, batch_norm: bool = False) -> Model:
    """A model of the training images."""
    shared: dict[str, Any] = {
        "hidden_layer_sizes": (256,),
        "activation": "relu",
        "output_activation": "sigmoid",
        "learning_rate": 3e-3,
        "batch_size": 100,
        "max_iter": EPOCHS,
        "n_iter_no_change": EPOCHS,
        "random_state": 0,
    }
    if kind == "VAE":  # a variance of 1/2: the likelihood is the squared error
        options = {"kl_weight": weight, "noise_variance": 0.5, "batch_norm": batch_norm}
        model: Model = VariationalAutoencoder(latent_dim, **options, **shared)
    else:
        options = {"entropy_weight": weight if kind == "EAE" else 0.0, "batch_norm": kind == "EAE"}
        model = EntropicAutoencoder(latent_dim, **options, **shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(digits()[0])


def posterior(model: Model, X: Matrix) -> tuple[Matrix, Matrix]:
    """Means and standard deviations of the codes; `transform` gives the means only."""
    mean, log_variance = model._posterior(model.params_, X)  # type: ignore[union-attr]  # a VAE's
    return mean, np.exp(log_variance / 2)


def drawn_codes(kind: str, model: Model, X: Matrix) -> Matrix:
    """Codes of images: points, or for the VAE a draw from each normal law."""
    if kind != "VAE":
        return np.asarray(model.transform(X))
    mean, deviation = posterior(model, X)
    return mean + deviation * np.random.default_rng(0).standard_normal(mean.shape).astype(mean.dtype)


def error(model: Model, codes: Matrix, X: Matrix) -> float:
    """Squared error of decoded codes, the mean over the images."""
    return float(((model.inverse_transform(codes) - X) ** 2).sum(axis=1).mean())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def coverage_table() -> str:
    """What the ellipses cover of N(0, I), and what the decoder makes of all of an ellipse."""
    X, _, X_test, _ = digits()
    rows = []
    for weight in COVERAGE_WEIGHTS:
        model = fitted("VAE", 2, weight)
        mean, deviation = posterior(model, X)
        points = np.random.default_rng(0).standard_normal((DRAWS // 5, 2))
        inside = [bool((((point - mean) / deviation) ** 2).sum(axis=1).min() <= 4) for point in points]
        at_mean = error(model, model.transform(X_test), X_test)
        at_draws = error(model, drawn_codes("VAE", model, X_test), X_test)
        rows.append(
            [
                f"{weight:g}",
                f"{deviation.mean():.3f}",
                f"{np.mean(inside):.1%}",
                f"{at_mean:.3f}",
                f"{at_draws:.3f}",
            ]
        )
    header = ["KL weight", "mean σ", "N(0, I) within 2σ of a code", "error of D(μ)", "error of D(μ + σε)"]
    return markdown(header, rows)


def smoothness_table() -> str:
    """How far the decoder's image moves when the code moves by a share of the spread of all codes."""
    X_test = digits()[2]
    noise = np.random.default_rng(0).standard_normal((len(X_test), 8)).astype(np.float32)
    shares = (0.1, 0.2, 0.4)
    rows = []
    for kind, title in TITLES.items():
        model = fitted(kind, 8)
        codes = drawn_codes(kind, model, X_test)
        still = model.transform(X_test)
        moved = [
            error(model, still + share * codes.std(axis=0) * noise, model.inverse_transform(still))
            for share in shares
        ]
        rows.append([title, *(f"{m:.3f}" for m in moved)])
    return markdown(["model", *(f"moved by {share:g} standard deviations" for share in shares)], rows)


def posterior_table() -> str:
    """All codes of the test images together, against N(0, I)."""
    X_test = digits()[2]
    rows = []
    for kind, title in TITLES.items():
        model = fitted(kind, 8)
        cells = normality(drawn_codes(kind, model, X_test).astype(np.float64))
        rows.append([title, *cells, f"{error(model, model.transform(X_test), X_test):.3f}"])
    drawn = np.random.default_rng(0).standard_normal((len(X_test), 8))
    rows.append(["as many draws of N(0, I)", *normality(drawn), ""])
    header = ["model", "largest mean", "least variance", "largest variance", "divergence from N(0, I), nats"]
    return markdown([*header, "test error"], rows)


def normality(codes: Matrix) -> list[str]:
    """Largest mean, extreme variances in any direction, and divergence from N(0, I) by nearest neighbours."""
    d = codes.shape[1]
    energy = 0.5 * float((codes**2).sum(axis=1).mean()) + 0.5 * d * math.log(2 * math.pi)
    spread = np.linalg.eigvalsh(np.cov(codes.T))
    cells = (np.abs(codes.mean(axis=0)).max(), spread[0], spread[-1], energy - float(knn_entropy(codes)))
    return [f"{cell:.2f}" for cell in cells]


def midpoints_table() -> str:
    """How near to a real image the decoder's image half way between two codes is."""
    X, _, X_test, y_test = digits()
    rng = np.random.default_rng(0)
    first = rng.permutation(len(X_test))
    second = rng.permutation(len(X_test))
    other = y_test[first] != y_test[second]
    first, second = first[other], second[other]
    rows = [["test images themselves", f"{nearest(X_test, X):.2f}"]]
    for kind, title in TITLES.items():
        model = fitted(kind, 8)
        codes = model.transform(X_test)
        rows.append([title, f"{nearest(model.inverse_transform((codes[first] + codes[second]) / 2), X):.2f}"])
    rows.append(["mean of the two images", f"{nearest((X_test[first] + X_test[second]) / 2, X):.2f}"])
    return markdown(["half way between two digits", "squared distance to the nearest training image"], rows)


def nearest(images: Matrix, X: Matrix) -> float:
    """Mean squared distance to the nearest row of X."""
    return float(np.mean([((image - X) ** 2).sum(axis=1).min() for image in images]))


def dimensions(weight: float, batch_norm: bool = False) -> tuple[Matrix, Matrix, Matrix]:
    """Mean of μ², mean of σ² and divergence of each dimension on the training images, the largest divergence first."""
    mean, deviation = posterior(fitted("VAE", COLLAPSE_DIM, weight, batch_norm), digits()[0])
    mean, deviation = mean.astype(np.float64), deviation.astype(np.float64)
    divergence = gaussian_kl(mean.T, 2 * np.log(deviation.T), reduction="none") / len(mean)
    order = np.argsort(-divergence)
    return (mean**2).mean(axis=0)[order], (deviation**2).mean(axis=0)[order], divergence[order]


def collapse_table() -> str:
    """Dimensions in use with and without batch normalisation of the codes."""
    X_test = digits()[2]
    rows = []
    for batch_norm in (False, True):
        for weight in COLLAPSE_WEIGHTS:
            squares, variances, divergence = dimensions(weight, batch_norm)
            model = fitted("VAE", COLLAPSE_DIM, weight, batch_norm)
            active = divergence > 0.01
            balance = (squares + variances)[active]
            rows.append(
                [
                    "with batch norm" if batch_norm else "without",
                    f"{weight:g}",
                    str(int(active.sum())),
                    f"{divergence.sum():.2f}",
                    f"{divergence.min():.4f}",
                    f"{balance.min():.3f} to {balance.max():.3f}" if active.any() else "",
                    f"{error(model, model.transform(X_test), X_test):.3f}",
                ]
            )
    header = [
        "codes",
        "KL weight",
        "active of 16",
        "KL, nats",
        "least KL of a dimension",
        "E μ² + E σ², active",
        "test error",
    ]
    return markdown(header, rows)


def variance_table() -> str:
    """Variances of two estimates of d/dμ E (z - 3)², z = μ + σε, at μ = 1.5 and σ = 0.7."""
    mean, deviation = 1.5, 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    draws = np.random.default_rng(0).standard_normal(1_000_000)
    estimates = {
        "reparameterisation, f'(z)": lambda e: 2 * (mean + deviation * e - 3),
        "score function, f(z) ε / σ": lambda e: (mean + deviation * e - 3) ** 2 * e / deviation,
    }
    rows, variances = [], []
    for name, estimate in estimates.items():
        values = estimate(nodes)
        expected = float(weights @ values)
        variances.append(float(weights @ (values - expected) ** 2))
        rows.append([name, f"{expected:.4f}", f"{variances[-1]:.4f}", f"{estimate(draws).var():.2f}"])
    rows.append(["ratio", "", f"{variances[1] / variances[0]:.2f}", ""])
    return markdown(["estimate", "mean", "variance", "variance of a million draws"], rows)


def tables() -> dict[str, str]:
    """Every table of the page, in its order."""
    made = (
        coverage_table,
        smoothness_table,
        midpoints_table,
        posterior_table,
        collapse_table,
        variance_table,
    )
    return {make.__name__: make() for make in made}


def draw_codes(folder: Path) -> None:
    """Two-dimensional codes: points and ellipses."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    _, _, X, y = digits()
    figure = Figure(figsize=(13, 4.9), layout="constrained")
    axes = figure.subplots(1, 3)
    colours = [COLOURS[digit] for digit in y]
    for ax, (kind, title) in zip(axes, TITLES.items(), strict=True):
        model = fitted(kind, 2)
        if kind == "VAE":
            mean, deviation = posterior(model, X)
            ellipses = EllipseCollection(
                2 * deviation[:, 0], 2 * deviation[:, 1], np.zeros(len(X)), units="xy", offsets=mean,
                transOffset=ax.transData, facecolors=colours, edgecolors=colours, alpha=0.35, linewidths=0.8,
            )  # fmt: skip
            ax.add_collection(ellipses)
        else:
            mean = model.transform(X)
            ax.scatter(*mean.T, s=9, c=colours)
        reach = max(3.6, 1.1 * np.abs(mean).max())
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        for radius in (1, 2):
            ax.add_patch(Circle((0, 0), radius, fill=False, ls="--", lw=1, ec="#333333"))
        shape = "ellipses of one σ" if kind == "VAE" else "points"
        ax.set_title(f"{title}: {shape}", loc="left", fontsize=11)
    marks = [
        Line2D([], [], marker="o", ls="", color=colour, label=str(i)) for i, colour in enumerate(COLOURS)
    ]
    figure.legend(handles=marks, loc="outside right center", frameon=False, title="digit")
    figure.savefig(folder / "vae_codes.png", dpi=100)


def draw_plane(folder: Path) -> None:
    """What the decoders make of the plane, at equal shares of N(0, I)."""
    from matplotlib.figure import Figure

    count = 11
    steps = norm.ppf((np.arange(count) + 0.5) / count)
    codes = np.stack(np.meshgrid(steps, -steps), axis=-1).reshape(-1, 2).astype(np.float32)
    figure = Figure(figsize=(13, 4.75), layout="constrained")
    figure.get_layout_engine().set(wspace=0.05)
    for ax, (kind, title) in zip(figure.subplots(1, 3), TITLES.items(), strict=True):
        images = fitted(kind, 2).inverse_transform(codes)
        lines = [strip(images[start : start + count], gap=2) for start in range(0, len(images), count)]
        gap = np.ma.masked_all((2, lines[0].shape[1]))
        sheet = np.ma.concatenate([part for line in lines for part in (line, gap)][:-1])
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(title, loc="left", fontsize=11)
        ax.set_axis_off()
    figure.savefig(folder / "vae_plane.png", dpi=110)


def draw_interpolations(folder: Path) -> None:
    """Straight ways between the codes of the same two images, of each model."""
    from matplotlib.figure import Figure

    _, _, X, y = digits()
    pairs = ((0, 1), (4, 9), (2, 7))
    steps = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    figure = Figure(figsize=(11, 7.6))
    axes = figure.subplots(
        3 * len(pairs) + len(pairs) - 1, 1, height_ratios=([1] * 3 + [0.3]) * (len(pairs) - 1) + [1] * 3
    )
    place = iter(axes)
    for number, pair in enumerate(pairs):
        ends = np.stack([X[np.flatnonzero(y == digit)[3]] for digit in pair])
        for kind, title in TITLES.items():
            model = fitted(kind, 8)
            codes = model.transform(ends)
            way = model.inverse_transform((1 - steps) * codes[0] + steps * codes[1])
            ax = next(place)
            ax.imshow(strip(np.concatenate([ends[:1], way, ends[1:]])), cmap="gray", vmin=0, vmax=1)
            ax.text(-0.01, 0.5, title, transform=ax.transAxes, ha="right", va="center", fontsize=10)
            ax.set_axis_off()
        if number < len(pairs) - 1:
            next(place).set_axis_off()
    figure.subplots_adjust(left=0.12, right=0.99, top=0.99, bottom=0.01, hspace=0.08)
    figure.savefig(folder / "vae_interpolations.png", dpi=100)


def strip(images: Matrix, gap: int = 1) -> Matrix:
    """Images of 8 x 8 side by side with gaps that stay white."""
    line = np.full((8, (8 + gap) * len(images) - gap), np.nan)
    for i, image in enumerate(images):
        left = (8 + gap) * i
        line[:, left : left + 8] = image.reshape(8, 8)
    return np.ma.masked_invalid(line)


def draw_dimensions(folder: Path) -> None:
    """Mean of μ² and of σ² of each dimension, stacked."""
    from matplotlib.figure import Figure

    cases = ((0.05, False), (0.5, False), (0.5, True))
    figure = Figure(figsize=(13, 3.9), layout="constrained")
    axes = figure.subplots(1, len(cases), sharey=True)
    places = np.arange(1, COLLAPSE_DIM + 1)
    for ax, (weight, batch_norm) in zip(axes, cases, strict=True):
        squares, variances, _ = dimensions(weight, batch_norm)
        ax.bar(places, squares, color="#4c72b0", label="mean of μ²")
        ax.bar(places, variances, bottom=squares, color="#dd8452", label="mean of σ²")
        ax.axhline(1, color="#333333", lw=1, ls="--")
        ax.set_title(
            f"KL weight {weight:g}" + (", batch norm" if batch_norm else ""), loc="left", fontsize=11
        )
        ax.set_xlabel("dimension, the largest KL first")
        ax.set_xticks(places)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.35)
    axes[0].legend(frameon=False, loc="upper left", ncols=2)
    figure.savefig(folder / "vae_dimensions.png", dpi=100)


def draw_posterior(folder: Path) -> None:
    """Coordinates and lengths of all codes together, against those of N(0, I)."""
    from matplotlib.figure import Figure

    X = digits()[2]
    figure = Figure(figsize=(13, 6.2), layout="constrained")
    axes = figure.subplots(2, 3)
    line, lengths = np.linspace(-4, 4, 201), np.linspace(0, 6, 201)
    for (upper, lower), (kind, title) in zip(axes.T, TITLES.items(), strict=True):
        codes = drawn_codes(kind, fitted(kind, 8), X)
        reach = max(4.0, float(np.quantile(np.abs(codes), 0.995)))
        bins = np.linspace(-reach, reach, 41)
        for column in codes.T:
            upper.hist(column, bins, density=True, histtype="step", lw=0.9, alpha=0.8)
        upper.plot(line, norm.pdf(line), color="#222222", lw=2, ls="--", label="N(0, 1)")
        upper.set_title(f"{title}: the 8 coordinates", loc="left", fontsize=11)
        norms = np.linalg.norm(codes, axis=1)
        furthest = max(6.0, float(norms.max()))
        lower.hist(norms, np.linspace(0, furthest, 41), density=True, color="#4c72b0", alpha=0.6)
        lower.plot(lengths, chi.pdf(lengths, 8), color="#222222", lw=2, ls="--", label="N(0, I)")
        lower.set_title("the length of the code", loc="left", fontsize=11)
        for ax in (upper, lower):
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(frameon=False)
    figure.savefig(folder / "vae_posterior.png", dpi=90)


def main() -> None:
    """Print the tables; draw on demand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, help="folder to draw into")
    asked = parser.parse_args()
    print(*tables().values(), sep="\n\n")
    if asked.pictures:
        for draw in (draw_codes, draw_plane, draw_interpolations, draw_dimensions, draw_posterior):
            draw(asked.pictures)


if __name__ == "__main__":
    main()
