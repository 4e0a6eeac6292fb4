"""How good samples of N(0, I) are, against how well images are reconstructed: EAE and VAE over their weights.

All models have the same hidden layer, code, optimizer and number of epochs; only the objective differs. The Fréchet
distance is that of the normal laws fitted to the features of samples and of test images, features being the hidden
layer of one small classifier of the images, the same for all models.

``python benchmarks/frontier.py`` trains on scikit-learn's digits, ``python benchmarks/frontier.py FILE.npz`` on the
images of a file (``X_train*``, ``y_train*``, ``X_test``, ``y_test``). Either stores its figures as
``docs/frontier-NAME.json``, draws ``docs/images/frontier_NAME.png`` and ``docs/images/frontier_samples_NAME.png``, and
writes ``docs/autoencoders.md`` anew from all figures stored; ``--page`` only does the last.

The digits take 5 minutes of one core. Options size other runs: an epoch of 10,000 images of 28 x 28 takes about 0.6
seconds, so that 40 epochs of the 11 models of 5 and 4 weights, with 2 seeds, take 9 minutes.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from zlpr import nn
from zlpr.activations import relu
from zlpr.models import EntropicAutoencoder, MultilabelClassifier, VariationalAutoencoder

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "autoencoders.md"
SAMPLES = 10_000
SHOWN = 20  # samples of a model in the picture
NAMES = {
    "ae": "AE",
    "fitted": "AE, codes drawn from the normal law fitted to the training codes",
    "bn": "AE with batch norm of the codes",
    "eae": "EAE",
    "vae": "VAE",
}
COLOURS = {"ae": "#777777", "fitted": "#777777", "bn": "#3a9d5d", "eae": "#2a6fbb", "vae": "#d1495b"}
MARKERS = {"ae": "x", "fitted": "v", "bn": "s", "eae": "o", "vae": "D"}

Matrix = np.ndarray[Any, Any]
Draw = Callable[[int], Matrix]


@dataclass(frozen=True)
class Images:
    """Pixels between 0 and 1 as rows, and classes."""

    X: Matrix
    y: Matrix
    X_test: Matrix
    y_test: Matrix


def digits() -> Images:
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[: 2 * len(X) // 3], order[2 * len(X) // 3 :]
    return Images(X[train], y[train], X[test], y[test])


def images_of(path: Path) -> Images:
    with np.load(path, allow_pickle=False) as file:
        parts = {name.partition("train")[0] + "train" * ("train" in name): file[name] for name in file.files}
    missing = [name for name in ("X_train", "y_train", "X_test", "y_test") if name not in parts]
    if missing:
        raise SystemExit(f"{path}: no array {missing[0]}; found {', '.join(sorted(parts))}")
    top = float(parts["X_train"].max())
    train, test = (
        (parts[f"X_{side}"].reshape(len(parts[f"X_{side}"]), -1) / top).astype(np.float32)
        for side in ("train", "test")
    )
    return Images(train, parts["y_train"], test, parts["y_test"])


class Features:
    """The hidden layer of a classifier of the images."""

    def __init__(self, data: Images, epochs: int) -> None:
        Y = (data.y[:, None] == np.unique(data.y)).astype(np.uint8)
        model = MultilabelClassifier((64,), activation="relu", max_iter=epochs, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(data.X, Y)
        found = np.unique(data.y)[model.decision_function(data.X_test).argmax(axis=1)]
        self.accuracy = float(np.mean(found == data.y_test))
        self._layer = model.params_[0]

    def __call__(self, X: Matrix) -> Matrix:
        return relu(nn.dense(self._layer, X.astype(self._layer["weight"].dtype))).astype(np.float64)


def frechet_distance(a: Matrix, b: Matrix) -> float:
    r"""Squared distance of the means plus :math:`\operatorname{tr}(S + T - 2 (S^{1/2} T S^{1/2})^{1/2})`."""
    S, T = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(S)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ T @ root), 0)).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(S) + np.trace(T) - 2 * cross)


def models(options: argparse.Namespace, seed: int) -> Iterator[tuple[str, float, Any]]:
    """Kind, weight and estimator, one by one."""
    shared = {
        "latent_dim": options.latent_dim,
        "hidden_layer_sizes": (options.width,),
        "activation": "relu",
        "output_activation": "sigmoid",
        "learning_rate": options.learning_rate,
        "max_iter": options.epochs,
        "n_iter_no_change": options.epochs,
        "batch_size": 100,
        "random_state": seed,
    }
    yield "ae", 0.0, EntropicAutoencoder(entropy_weight=0.0, batch_norm=False, **shared)
    yield "bn", 0.0, EntropicAutoencoder(entropy_weight=0.0, **shared)
    for weight in options.entropy_weights:
        yield "eae", weight, EntropicAutoencoder(entropy_weight=weight, **shared)
    for weight in options.kl_weights:  # a variance of 1/2: the likelihood is the squared error
        yield "vae", weight, VariationalAutoencoder(kl_weight=weight, noise_variance=0.5, **shared)


def draws(kind: str, model: Any, X: Matrix) -> Iterator[tuple[str, Draw]]:
    """The ways to sample a model: codes of N(0, I); for a plain autoencoder also of the law fitted to its codes."""
    yield kind, lambda seed: model.sample(SAMPLES, random_state=seed)
    if kind == "ae":
        codes = model.transform(X)

        def fitted(seed: int) -> Matrix:
            drawn = np.random.default_rng(seed).multivariate_normal(
                codes.mean(axis=0), np.cov(codes.T), SAMPLES
            )
            return np.asarray(model.inverse_transform(drawn.astype(codes.dtype)))

        yield "fitted", fitted


def measure(data: Images, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Matrix]]:
    """The figures, and samples of the first seed by model."""
    features = Features(data, options.classifier_epochs)
    truth = features(data.X_test)
    runs, samples = [], {"test images": data.X_test[:SHOWN]}
    started = time.perf_counter()
    for seed in range(options.seeds):
        for kind, weight, model in models(options, seed):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(data.X)
            restored = model.inverse_transform(model.transform(data.X_test))
            error = float(((restored - data.X_test) ** 2).sum(axis=1).mean())
            for name, draw in draws(kind, model, data.X):
                drawn = draw(seed)
                distance = frechet_distance(features(drawn), truth)
                runs.append(
                    {"kind": name, "weight": weight, "seed": seed, "error": error, "distance": distance}
                )
                samples.setdefault(f"{name} {weight:g}", drawn[:SHOWN])
                print(
                    f"{time.perf_counter() - started:6.0f} s  seed {seed}  {name:6} {weight:<6g} "
                    f"error {error:.3f}  distance {distance:.2f}",
                    flush=True,
                )
    about = {
        "training images": len(data.X),
        "test images": len(data.X_test),
        "pixels": data.X.shape[1],
        "accuracy": features.accuracy,
        "floor": frechet_distance(features(data.X), truth),
        "command": " ".join(["python benchmarks/frontier.py", *(Path(word).name for word in sys.argv[1:])]),
        **{
            name: getattr(options, name)
            for name in ("latent_dim", "width", "epochs", "learning_rate", "seeds")
        },
    }
    return {"about": about, "runs": runs}, samples


def averages(found: dict[str, Any]) -> dict[tuple[str, float], tuple[Matrix, Matrix]]:
    """Mean and spread over the seeds of (error, distance), by kind and weight; a spread of nan for one seed."""
    grouped: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for run in found["runs"]:
        grouped.setdefault((run["kind"], run["weight"]), []).append((run["error"], run["distance"]))
    result = {}
    for key, values in grouped.items():
        spread = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(2, np.nan)
        result[key] = np.mean(values, axis=0), spread
    return result


def curve(rows: dict[tuple[str, float], tuple[Matrix, Matrix]], kind: str) -> Matrix:
    """(error, distance) over the weights, the smaller weights first."""
    return np.array([mean for (name, _), (mean, _) in sorted(rows.items()) if name == kind])


def table(found: dict[str, Any]) -> str:
    rows = averages(found)
    vae = curve(rows, "vae")
    vae = vae[np.argsort(vae[:, 0])]
    lines = [
        "| model | weight | squared error of a test image | Fréchet distance of samples | VAE at the same error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind in NAMES:
        for (name, weight), (mean, spread) in sorted(rows.items()):
            if name != kind:
                continue
            cells = [
                f"{m:.3f} ± {s:.3f}" if s == s else f"{m:.3f}" for m, s in zip(mean, spread, strict=True)
            ]
            cells[1] = f"{mean[1]:.2f} ± {spread[1]:.2f}" if spread[1] == spread[1] else f"{mean[1]:.2f}"
            inside = kind == "eae" and vae[0, 0] <= mean[0] <= vae[-1, 0]
            beside = f"{np.interp(mean[0], vae[:, 0], vae[:, 1]):.2f}" if inside else ""
            shown = f"{weight:g}" if kind in ("eae", "vae") else ""
            lines.append("| " + " | ".join([NAMES[kind], shown, *cells, beside]) + " |")
    return "\n".join(lines)


def section(name: str, found: dict[str, Any]) -> str:
    about, rows = found["about"], averages(found)
    eae, vae = curve(rows, "eae"), curve(rows, "vae")
    plain, fitted = rows["bn", 0.0][0], rows["fitted", 0.0][0]
    weights = sorted(weight for kind, weight in rows if kind == "eae")
    seeds = f"{about['seeds']} seeds, mean ± standard deviation" if about["seeds"] > 1 else "one seed"
    best, rival = eae[:, 1].argmin(), vae[:, 1].argmin()
    vae_weights = sorted(weight for kind, weight in rows if kind == "vae")
    command = about["command"].replace(" --", " \\\n    --")
    percent = [f"{row[0] / plain[0] - 1:+.1%}" for row in eae]
    return f"""## {name}

{about["training images"]} training and {about["test images"]} test images of {about["pixels"]} pixels; codes of
{about["latent_dim"]} numbers, one hidden layer of {about["width"]} rectifiers on either side, sigmoid outputs,
Adam with the rate {about["learning_rate"]:g}, batches of 100, {about["epochs"]} epochs; {seeds}.
The classifier has {about["accuracy"]:.1%} of the test images right. The training images themselves have the
distance {about["floor"]:.2f} from the test images.

{table(found)}

The smallest distance of EAE is {eae[best, 1]:.2f} (λ = {weights[best]:g}), that of the VAE
{vae[rival, 1]:.2f} (weight {vae_weights[rival]:g}). The error of EAE differs from that of the autoencoder with
batch norm alone by {percent[0]} at λ = {weights[0]:g} and by {percent[1]} at λ = {weights[1]:g}. The plain
autoencoder whose codes are drawn from the normal law fitted to its training codes has the distance
{fitted[1]:.2f} at the error {fitted[0]:.3f}.
Made by

```sh
{command}
```

![Fréchet distance of samples against the reconstruction error, {name}: the curves of EAE and VAE over their
weights, and the plain autoencoders](images/frontier_{name}.png)

![Samples of each model, a row each, below a row of test images, {name}](images/frontier_samples_{name}.png)
"""


def page() -> str:
    """The whole page, from the figures stored."""
    stored = {
        path.stem.partition("-")[2]: json.loads(path.read_text())
        for path in sorted(DOCS.glob("frontier-*.json"))
    }
    sections = "\n".join(section(name, found) for name, found in stored.items())
    return f"""# Autoencoders that generate: samples against reconstruction

An autoencoder becomes a generative model when codes drawn from N(0, I) decode to images. The entropic autoencoder
(EAE) asks the codes of a batch for a large entropy $\\hat H$, with mean 0 and variance 1 by batch normalisation;
the variational one (VAE) asks the code of each image to be a normal law near N(0, I). Either weight, $\\lambda$ or
$w$, trades reconstruction for samples. Both objectives are in squared units of the pixels, which are between 0 and 1:

$$
\\lVert x - D(z) \\rVert^2 - \\lambda \\hat H(z)
\\qquad\\text{{and}}\\qquad
\\mathbb E \\lVert x - D(z) \\rVert^2 + w \\, \\mathrm{{KL}} .
$$

The distance is that of Fréchet, $\\lVert m - m' \\rVert^2 + \\operatorname{{tr}}(S + S' - 2 (S S')^{{1/2}})$ for
the means and covariances of 64 features, the hidden layer of a classifier of the images; {SAMPLES:,} samples against
the test images. Smaller is better in both columns. The last column is the VAE's distance at the error of that EAE,
interpolated over the VAE's weights.

{sections}
The figures are stored in `docs/frontier-*.json`. What the codes look like is in [the geometry of the VAE](vae.md), the
gradients are in [the algebra of autoencoders](derivations/autoencoders.md).
"""


def draw_frontier(found: dict[str, Any], name: str) -> None:
    """All models, and beside them those with an error like EAE's."""
    from matplotlib.figure import Figure

    rows = averages(found)
    errors = [mean[0] for (kind, _), (mean, _) in rows.items() if kind in ("eae", "bn")]
    margin = 0.12 * (max(errors) - min(errors))
    zoom = min(errors) - margin, max(errors) + margin
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    for ax, near in zip(figure.subplots(1, 2), (False, True), strict=True):
        draw_models(ax, {key: row for key, row in rows.items() if not near or is_near(key, row, zoom)})
        for (kind, weight), (mean, _) in rows.items():
            if kind in ("eae", "vae") and is_near((kind, weight), (mean, None), zoom) == near:
                side = -1 if kind == "eae" else 1
                ax.annotate(
                    f"{weight:g}", mean, xytext=(3 * side, 7 * side), textcoords="offset points", fontsize=9,
                    color=COLOURS[kind], ha="right" if side < 0 else "left", va="top" if side < 0 else "bottom",
                )  # fmt: skip
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}" if near else "")
        ax.set_xlabel("squared error of a test image")
        ax.set_ylabel("Fréchet distance of samples")
        ax.grid(True, which="major", color="#e5e5e5", lw=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(
            "errors like EAE's, nearer" if near else f"samples against reconstruction, {name}", loc="left"
        )
        if near:
            ax.set_xlim(*zoom)
            continue
        floor = found["about"]["floor"]
        ax.axhline(floor, color="#999999", lw=1, ls=":")
        place = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        ax.text(1.0, floor, "training images", color="#777777", fontsize=9, **place)
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        ax.legend(handles.values(), handles.keys(), frameon=False, fontsize=9, loc="upper right")
    figure.savefig(DOCS / "images" / f"frontier_{name}.png", dpi=100)


def is_near(key: tuple[str, float], row: tuple[Matrix, Any], zoom: tuple[float, float]) -> bool:
    """Whether a model is drawn again: its error is within the limits, and it is not the plain autoencoder."""
    return key[0] != "ae" and zoom[0] <= row[0][0] <= zoom[1]


def draw_models(ax: Any, rows: dict[tuple[str, float], tuple[Matrix, Matrix]]) -> None:
    for kind in ("eae", "vae"):
        ax.plot(*curve(rows, kind).T, color=COLOURS[kind], lw=1.5, alpha=0.6)
    for (kind, _), (mean, spread) in rows.items():
        bars = np.nan_to_num(spread)
        ax.errorbar(
            *mean, xerr=bars[0], yerr=bars[1], color=COLOURS[kind], marker=MARKERS[kind], ms=6, lw=0,
            elinewidth=1, label=NAMES[kind].replace("drawn from", "drawn\nfrom"),
        )  # fmt: skip


def draw_samples(samples: dict[str, Matrix], name: str) -> None:
    from matplotlib.figure import Figure

    side = round(next(iter(samples.values())).shape[1] ** 0.5)
    figure = Figure(figsize=(10.5, 0.47 * len(samples)))
    for place, (ax, (label, rows)) in enumerate(
        zip(figure.subplots(len(samples), 1), samples.items(), strict=True)
    ):
        line = np.full((side, SHOWN * (side + 1) - 1), np.nan)
        for i, image in enumerate(rows):
            line[:, i * (side + 1) : i * (side + 1) + side] = image.reshape(side, side)
        ax.imshow(np.ma.masked_invalid(line), cmap="gray", vmin=0, vmax=1)
        ax.set_axis_off()
        kind, _, weight = label.partition(" ")
        shown = {"ae": "AE", "fitted": "AE, fitted law", "bn": "AE, batch norm"}.get(
            kind, f"{NAMES.get(kind)} {weight}"
        )
        ax.text(
            -0.01,
            0.5,
            label if place == 0 else shown,
            transform=ax.transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    figure.subplots_adjust(left=0.13, right=0.995, top=0.99, bottom=0.01, hspace=0.08)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    (DOCS / "images" / f"frontier_samples_{name}.png").write_bytes(content.getvalue())


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", help="images; scikit-learn's digits by default")
    parser.add_argument("--name", help="of the data; by default from the file")
    parser.add_argument("--entropy-weights", type=numbers, default=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4))
    parser.add_argument("--kl-weights", type=numbers, default=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4))
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--classifier-epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--page", action="store_true", help="only write the page from the stored figures")
    options = parser.parse_args()
    if not options.page:
        name = options.name or ("digits" if options.file is None else options.file.stem.removeprefix("img_"))
        found, samples = measure(digits() if options.file is None else images_of(options.file), options)
        (DOCS / f"frontier-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        draw_samples(samples, name)
    for path in DOCS.glob("frontier-*.json"):
        draw_frontier(json.loads(path.read_text()), path.stem.partition("-")[2])
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
