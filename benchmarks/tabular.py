"""`zlpr fit` on tabular multi-label data, beside logistic regression and a tuned sigmoid cross-entropy.

For every ``ml_*.npz`` of a folder, on its own training split, with standardised features and default settings:

* ZLPR: ``zlpr fit DATA``; a label is predicted where its score is above 0.
* logistic regression: scikit-learn's ``LogisticRegression(C=1)``, one a label (``OneVsRestClassifier`` takes 0.5 for
  the threshold of all labels when the first one never occurs in the training rows).
* sigmoid: ``zlpr fit DATA --loss sigmoid``, with the one threshold that is best for micro-F1 on the training rows.

``python benchmarks/tabular.py FOLDER`` writes ``docs/tabular.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, label_ranking_loss

from zlpr.cli import main as zlpr
from zlpr.cli.model_file import load_model
from zlpr.cli.readers import Table, read_table
from zlpr.models import MultilabelClassifier

SMALL = 100  # test rows; a set with fewer is split five times
SPLITS = 5
METHODS = ("ZLPR", "logistic regression", "sigmoid, tuned")
OUT = Path(__file__).resolve().parents[1] / "docs" / "tabular.md"

Scores = tuple[float, float]


def measure(Y: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> Scores:
    """Micro-F1 and ranking loss."""
    return f1_score(Y, predicted, average="micro", zero_division=0), label_ranking_loss(Y, scores)


def command_scores(path: Path, table: Table, loss: str, folder: Path) -> np.ndarray:
    """The scores of all rows by the model that `zlpr fit` writes."""
    out = folder / "model.safetensors"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if zlpr(["fit", str(path), "--loss", loss, "--out", str(out)]):
            raise SystemExit(f"zlpr fit {path} failed")
    model = load_model(out)
    return MultilabelClassifier.from_params(model.layers, **model.estimator).decision_function(
        model.standardise(table.X)
    )


def best_threshold(Y: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the best micro-F1, by one pass over the sorted scores."""
    order = np.argsort(-scores, axis=None)
    hits = np.cumsum(Y.ravel()[order])
    f1 = 2 * hits / (np.arange(1, Y.size + 1) + Y.sum())
    place = int(np.argmax(f1))
    ranked = scores.ravel()[order]
    return float((ranked[place] + ranked[min(place + 1, Y.size - 1)]) / 2)


def logistic_regression(table: Table, train: np.ndarray) -> Scores:
    X, Y = table.X, table.Y
    scale = X[train].std(axis=0)
    Z = (X - X[train].mean(axis=0)) / np.where(np.ptp(X[train], axis=0) == 0, 1, scale)
    scores = np.full(
        Y[~train].shape, -np.inf
    )  # a label that never occurs in the training rows is never predicted
    for label in np.flatnonzero(np.ptp(Y[train], axis=0)):
        model = LogisticRegression(C=1.0, max_iter=1000).fit(Z[train], Y[train, label])
        scores[:, label] = model.decision_function(Z[~train])
    scores[:, Y[train].all(axis=0)] = np.inf
    return measure(Y[~train], scores > 0, np.clip(scores, -1e9, 1e9))


def three_methods(path: Path, table: Table, folder: Path) -> list[Scores]:
    train, Y = table.is_train, table.Y
    ours = command_scores(path, table, "zlpr", folder)[~train]
    sigmoid = command_scores(path, table, "sigmoid", folder)
    threshold = best_threshold(Y[train], sigmoid[train])
    return [
        measure(Y[~train], ours > 0, ours),
        logistic_regression(table, train),
        measure(Y[~train], sigmoid[~train] > threshold, sigmoid[~train]),
    ]


def splits(path: Path, table: Table, folder: Path) -> Iterator[tuple[Path, Table]]:
    """The file's own split; for a small set, random ones of the same sizes."""
    if (~table.is_train).sum() >= SMALL:
        yield path, table
        return
    for seed in range(SPLITS):
        is_train = np.random.default_rng(seed).permutation(table.is_train)
        again = folder / path.name
        np.savez(again, X=table.X, Y=table.Y, is_train=is_train)
        yield again, read_table(again)


def run(path: Path) -> tuple[str, np.ndarray]:
    """The name cell of a set and its scores: (method, (micro-F1, ranking loss))."""
    table = read_table(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [three_methods(*case, folder) for case in splits(path, table, folder)]
    train, labels = int(table.is_train.sum()), table.Y.shape[1]
    note = "" if len(found) == 1 else f", {len(found)} random splits"
    title = path.stem.removeprefix("ml_")
    return f"{title} ({train} + {len(table.X) - train} rows, {labels} labels{note})", np.mean(found, axis=0)


def markdown(results: dict[str, np.ndarray]) -> str:
    header = ["data", *(f"micro-F1, {m}" for m in METHODS), *(f"ranking loss, {m}" for m in METHODS)]
    table = np.array(list(results.values()))  # (set, method, measure)
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * 6 + "|"]
    for name, scores in [*results.items(), ("**mean**", table.mean(axis=0))]:
        lines.append("| " + " | ".join([name, *(f"{value:.4f}" for value in scores.T.ravel())]) + " |")
    f1, ranking = (table[:, 0] - table[:, 1]).T
    return "\n".join(
        [
            "# Tabular data: ZLPR beside logistic regression",
            "",
            "Linear models with default settings on standardised features, scores of the test rows. ZLPR needs no "
            "threshold: a label is",
            "predicted where its score is above 0, as in logistic regression; sigmoid cross-entropy has a threshold "
            "tuned on the training rows.",
            "Micro-F1: higher is better. Ranking loss: lower is better.",
            "",
            *lines,
            "",
            f"ZLPR minus logistic regression: micro-F1 {f1.mean():+.4f} on average and {f1.min():+.4f} where it is "
            f"worst; ranking loss {ranking.mean():+.4f} on average and {ranking.max():+.4f} where it is worst.",
            "",
            "Made by `python benchmarks/tabular.py FOLDER`, with the data sets `ml_*.npz` in FOLDER.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with ml_*.npz")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    paths = sorted(options.folder.glob("ml_*.npz"))
    if not paths:
        raise SystemExit(f"no ml_*.npz in {options.folder}")
    results = {}
    for path in paths:
        started = time.perf_counter()
        name, scores = run(path)
        results[name] = scores
        print(
            f"{name}: {np.round(scores.T, 4).tolist()} in {time.perf_counter() - started:.0f} s", flush=True
        )
    options.out.write_text(markdown(results))


if __name__ == "__main__":
    main()
