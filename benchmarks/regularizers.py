"""The regularisers of `MultilabelClassifier` beside one another, where labels are few.

* Digits, 50 of them labelled, five of each class, or with ``--random-labels`` any 50; the other training rows have no
  labels, which only the consistency terms can use. Pixels in [0, 1], hidden layers of 64 and 64. Classes are one-hot
  rows with ZLPR, and the largest score is the prediction. All methods move a row by the same length: epsilon for FGM,
  VAT and the random direction, noise of the standard deviation epsilon / sqrt(64), and a penalty of the weight
  2 epsilon, to which a step of epsilon times the gradient amounts.
* Multi-label sets, a fifth of their training rows labelled: ``.npz`` files with X, Y and is_train, as `zlpr fit` reads
  them. One hidden layer of 100, features standardised, default lengths.
* With ``--lengths`` instead: FGM and VAT with four lengths on wine, breast cancer and iris with 12 to 15 labels.
  Features standardised, hidden layers of 64 and 64.

Each seed draws the split, the labelled rows and the initial parameters, the same for all methods, and all make the same
number of steps. No length is selected for the digits: each has its column.

``python benchmarks/regularizers.py emotions.npz yeast.npz`` prints the tables of ``docs/regularizers.md``, without
files that of the digits; ``--random-labels`` and ``--lengths --seeds 8`` print the other two.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import f1_score, label_ranking_loss

from zlpr.cli.readers import read_table
from zlpr.models import MultilabelClassifier

EPSILONS = (0.125, 0.25, 0.5, 1.0)
EPOCHS, BATCH = 100, 200
LABELLED_SHARE = 0.2

Scores = dict[str, list[float]]
Accuracy = Callable[..., float]


def digit_methods(epsilon: float) -> dict[str, dict[str, object]]:
    return {
        "noise": {"noise": epsilon / 8},
        "gradient penalty": {"gradient_penalty": 2 * epsilon},
        "FGM": {"adversarial": "fgm", "adversarial_epsilon": epsilon},
        "random direction": {
            "adversarial": "vat",
            "adversarial_epsilon": epsilon,
            "power_iterations": 0,
        },
        "VAT": {"adversarial": "vat", "adversarial_epsilon": epsilon},
    }


MULTILABEL_METHODS: dict[str, dict[str, object]] = {
    "none": {},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "FGM": {"adversarial": "fgm"},
    "VAT": {"adversarial": "vat"},
}


def fitted(
    X: np.ndarray, Y: np.ndarray, labelled: np.ndarray, seed: int, batch: int = BATCH, **params: object
) -> MultilabelClassifier:
    """A model of the labelled rows, or with VAT of all; as many steps in either case."""
    steps = EPOCHS * -(-(len(X) - labelled.sum()) // batch)
    if params.get("adversarial") == "vat":
        Y = np.where(labelled[:, None], Y, np.nan)
        epochs = EPOCHS
    else:
        X, Y = X[labelled], Y[labelled]
        epochs = steps // -(-len(X) // batch)
    model = MultilabelClassifier(
        max_iter=epochs,
        batch_size=batch,
        activation="relu",
        tol=0.0,
        n_iter_no_change=epochs,
        random_state=seed,
        **params,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, Y)


def one_class_a_row(
    X: np.ndarray, classes: np.ndarray, seed: int, labels: int, balanced: bool = True
) -> Accuracy:
    """The accuracy in percent of a third of the rows, with so many labels a class of the others, each or on average."""
    Y = np.eye(classes.max() + 1)[classes]
    train, test = np.split(np.random.default_rng(seed).permutation(len(X)), [2 * len(X) // 3])
    few = np.concatenate([np.flatnonzero(classes[train] == c)[:labels] for c in range(Y.shape[1])])
    labelled = np.isin(np.arange(len(train)), few if balanced else np.arange(labels * Y.shape[1]))

    def accuracy(**params: object) -> float:
        model = fitted(X[train], Y[train], labelled, seed, hidden_layer_sizes=(64, 64), **params)
        return 100 * float(np.mean(model.decision_function(X[test]).argmax(axis=1) == classes[test]))

    return accuracy


def digits(seed: int, balanced: bool) -> Scores:
    """One entry a length for each method."""
    X, classes = load_digits(return_X_y=True)
    accuracy = one_class_a_row(X / 16.0, classes, seed, labels=5, balanced=balanced)
    found = {"none": [accuracy()] * len(EPSILONS)}
    for epsilon in EPSILONS:
        for name, params in digit_methods(epsilon).items():
            found.setdefault(name, []).append(accuracy(**params))
    return found


def lengths(seed: int) -> Scores:
    """One entry a data set for none, and for FGM and VAT with each length."""
    found: Scores = {}
    for load, labels in ((load_wine, 4), (load_breast_cancer, 7), (load_iris, 4)):
        X, classes = load(return_X_y=True)
        accuracy = one_class_a_row((X - X.mean(axis=0)) / X.std(axis=0), classes, seed, labels)
        found.setdefault("none", []).append(accuracy(batch=50))
        for name in ("fgm", "vat"):
            for epsilon in (0.25, 0.5, 1.0, 2.0):
                params = {"adversarial": name, "adversarial_epsilon": epsilon, "batch": 50}
                found.setdefault(f"{name.upper()}, ε = {epsilon:g}", []).append(accuracy(**params))
    return found


def multilabel(path: Path, seed: int) -> Scores:
    """Micro-F1 and ranking loss of the test rows, for each method, in percent."""
    table = read_table(path)
    train, Y = table.is_train, table.Y.astype(float)
    scale = table.X[train].std(axis=0)
    X = (table.X - table.X[train].mean(axis=0)) / np.where(scale == 0, 1.0, scale)
    rows = int(train.sum())
    labelled = np.random.default_rng(seed).permutation(rows) < LABELLED_SHARE * rows
    found = {}
    for name, params in MULTILABEL_METHODS.items():
        scores = fitted(X[train], Y[train], labelled, seed, **params).decision_function(X[~train])
        f1 = f1_score(Y[~train], scores > 0, average="micro", zero_division=0)
        found[name] = [100 * float(f1), 100 * float(label_ranking_loss(Y[~train], scores))]
    return found


def table(header: list[str], found: list[Scores]) -> str:
    """Mean and standard deviation over the seeds; and those of the difference from the first method."""
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|"]
    first = np.array([next(iter(scores.values())) for scores in found])
    for number, name in enumerate(found[0]):
        values = np.array([scores[name] for scores in found])
        cells = [_spread(column) for column in values.T]
        if number:
            cells = [
                f"{cell} ({_spread(change, '+')})"
                for cell, change in zip(cells, (values - first).T, strict=True)
            ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _spread(values: np.ndarray, sign: str = "") -> str:
    return f"{values.mean():{sign}.1f} ± {values.std(ddof=1):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="*", help="multi-label sets with a split")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--random-labels", action="store_true", help="digits without a balance of the classes"
    )
    parser.add_argument("--lengths", action="store_true", help="several lengths on three small sets")
    asked = parser.parse_args()
    if asked.lengths:
        print(table(["", "wine", "breast cancer", "iris"], [lengths(seed) for seed in range(asked.seeds)]))
        return
    started = time.perf_counter()
    print(f"Digits, 50 labels: test accuracy in percent, {asked.seeds} seeds\n")
    print(
        table(
            ["", *(f"ε = {e:g}" for e in EPSILONS)],
            [digits(seed, not asked.random_labels) for seed in range(asked.seeds)],
        )
    )
    for path in asked.files:
        print(f"\n{path.stem}, a fifth of the labels: {asked.seeds} seeds\n")
        found = [multilabel(path, seed) for seed in range(asked.seeds)]
        print(table(["", "micro-F1", "ranking loss"], found), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
