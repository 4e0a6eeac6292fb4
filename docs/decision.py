"""Which decision rule when, with its figures, as a page of Markdown.

``python docs/decision.py FOLDER > docs/decision.md``, with ``ml_emotions.npz`` and ``ml_yeast.npz`` in FOLDER;
needs the ``models`` extra and some seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom
from sklearn.metrics import accuracy_score, f1_score, hamming_loss

from zlpr.decision import fit_calibration, predict_labels, predict_proba, tune_threshold
from zlpr.models import MultilabelClassifier

EQUAL_LABELS = ((1, 0.3), (2, 0.3), (10, 0.3), (20, 0.1), (100, 0.05), (1000, 0.05))  # number, probability
OTHERS = ((2, 0.1), (6, 0.1), (11, 0.1), (11, 0.5))  # number of labels, probability of all but one
DATA = ("emotions", "yeast")
METRICS: dict[str, Callable[[Any, Any], float]] = {
    "micro_f1": lambda y, p: f1_score(y, p, average="micro", zero_division=0),
    "macro_f1": lambda y, p: f1_score(y, p, average="macro", zero_division=0),
    "subset_accuracy": accuracy_score,
    "hamming": lambda y, p: 1 - hamming_loss(y, p),
}


def sigmoid(s: float) -> float:
    """1 / (1 + exp(-s))."""
    return 1 / (1 + math.exp(-s))


def slope_of_expected_loss(s: float, n: int, p: float, extra: float | None = None) -> float:
    """Derivative of the expected ZLPR in the common score `s` of n independent labels of probability p.

    `extra` is the probability of one more label, whose score is 0.
    """
    total = 0.0
    for y, chance in ((None, 1.0),) if extra is None else ((0, 1 - extra), (1, extra)):
        k = np.arange(n + 1)
        negative = (n - k) * math.exp(s) / (1 + (n - k) * math.exp(s) + (y == 0))
        positive = k * math.exp(-s) / (1 + k * math.exp(-s) + (y == 1))
        total += chance * float(np.sum(binom.pmf(k, n, p) * (negative - positive)))
    return total


def common_score(n: int, p: float, extra: float | None = None) -> float:
    """The score at which the expected loss of n equal labels is least."""
    return brentq(slope_of_expected_loss, -30, 30, args=(n, p, extra), xtol=1e-13)


def probability_at_zero(n: int, p: float) -> float:
    """The probability of one of n labels whose best score is 0, the others having probability p."""

    def slope_of_the_one(extra: float) -> float:
        k, s = np.arange(n), common_score(n - 1, p, extra)
        negative = 1 / (2 + (n - 1 - k) * math.exp(s))
        positive = 1 / (2 + k * math.exp(-s))
        return float(np.sum(binom.pmf(k, n - 1, p) * ((1 - extra) * negative - extra * positive)))

    return brentq(slope_of_the_one, 0.01, 0.99, xtol=1e-12)


def equal_labels_table() -> str:
    """What the scores of equal labels say about their probability."""
    lines = []
    for n, p in EQUAL_LABELS:
        s = common_score(n, p)
        ratio = math.log(p / (1 - p)) / s
        lines.append(
            [f"{n}", f"{p}", f"{s:.4f}", f"{sigmoid(s):.4f}", f"{sigmoid(2 * s):.4f}", f"{ratio:.3f}"]
        )
    return table(("labels", "probability", "score", "σ(s)", "σ(2s)", "slope a of σ(as)"), lines)


def zero_table() -> str:
    """The probability that the threshold 0 stands for."""
    lines = [[f"{n}", f"{p}", f"{probability_at_zero(n, p):.3f}"] for n, p in OTHERS]
    return table(("labels", "probability of the others", "probability at score 0"), lines)


def tuning_table(folder: Path) -> tuple[str, str]:
    """Metrics of the test rows at 0 and with tuned thresholds; and log-losses of the three probabilities."""
    tuned, losses = [], []
    for name in DATA:
        scores, targets, test_scores, test_targets = scores_of(folder / f"ml_{name}.npz")
        for metric, measure in METRICS.items():
            cells = [measure(test_targets, predict_labels(test_scores))]
            for per_label in (False, True):
                if per_label and metric == "subset_accuracy":
                    continue
                t = tune_threshold(scores, targets, metric=metric, per_label=per_label)
                cells.append(measure(test_targets, predict_labels(test_scores, threshold=t)))
            lines = [f"{cell:.4f}" for cell in cells]
            tuned.append([name, metric, *lines, *["-"] * (3 - len(lines))])
        line = fit_calibration(scores, targets)
        proba = [
            predict_proba(test_scores),
            predict_proba(test_scores, mode="soft"),
            predict_proba(test_scores, mode="calibrated", calibration=line),
        ]
        cells = [f"{log_loss(test_targets, p):.4f}" for p in proba]
        losses.append([name, *cells, f"{float(line.slope):.3f}", f"{float(line.intercept):.3f}"])
    return (
        table(("data", "metric", "threshold 0", "one threshold", "a threshold a label"), tuned),
        table(("data", "bernoulli", "soft", "calibrated", "slope", "intercept"), losses),
    )


def log_loss(targets: Any, p: Any) -> float:
    """Mean log-loss of an entry, in nats."""
    return float(-np.mean(np.where(targets, np.log(p), np.log1p(-p))))


def scores_of(path: Path) -> tuple[Any, Any, Any, Any]:
    """Scores and targets of held-out training rows, and of the test rows, by a linear model of the other rows."""
    with np.load(path) as data:
        X, Y, is_train = data["X"].astype(float), data["Y"].astype(bool), data["is_train"].astype(bool)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(is_train))
    fit, held = rows[len(rows) // 3 :], rows[: len(rows) // 3]
    scale = X[fit].std(axis=0)
    Z = (X - X[fit].mean(axis=0)) / np.where(scale == 0, 1, scale)
    model = MultilabelClassifier(hidden_layer_sizes=(), solver="lbfgs", max_iter=2000).fit(Z[fit], Y[fit])
    return (
        model.decision_function(Z[held]),
        Y[held],
        model.decision_function(Z[~is_train]),
        Y[~is_train],
    )


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [list(head), ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    tuned, losses = tuning_table(parser.parse_args().folder)
    page = PAGE.replace("{equal}", equal_labels_table()).replace("{zero}", zero_table())
    print(page.replace("{tuned}", tuned).replace("{losses}", losses))


PAGE = r"""# From scores to labels

`zlpr.decision` turns scores into label sets and probabilities. All of it works on the library and the device of the
scores.

## Which rule when

| you want | take |
| --- | --- |
| labels from a model trained with ZLPR | `predict_labels(scores)`, with the threshold of the loss, 0 by default |
| the same number of labels in each row | `top_k_labels(scores, k)` |
| the best F1 or accuracy | `tune_threshold` on held-out data, then `predict_labels(scores, threshold=t)` |
| probabilities | `fit_calibration` on held-out data, then `predict_proba(scores, mode="calibrated", calibration=c)` |

## What a score says about a probability

For one label, ZLPR is the sigmoid cross-entropy, and the score of its minimum is the log-odds: the probability is
σ(s). Where the targets are the probabilities themselves, as in distillation, the minimum is at half the log-odds, and
the probability is σ(2s) for any number of labels. For several labels that are drawn, 0 or 1, neither holds: with
$A_i$ the mean of $1 / (1 + e^{-s_i} + r_+)$ and $B_i$ that of $1 / (1 + e^{s_i} + r_-)$ over the other labels, where
$r_+$ and $r_-$ are their part of the two sums, the minimum is where

$$\operatorname{logit} p_i = 2 s_i + \log (B_i / A_i).$$

Independent labels of one probability, their common score found by enumeration:

{equal}

The slope goes from 1 to 2 as labels are added. So a calibration has to be fitted: $\sigma(a s + b)$, by sigmoid
cross-entropy on held-out data. ZLPR is in general not a proper loss of the marginal probabilities.

The threshold 0 stays near probability one half, which is best for Hamming. The probability of a label whose best
score is 0, beside others that are all equal:

{zero}

It is not the best threshold for F1: of calibrated probabilities, that is half the F1 it reaches, so never above one
half ([Lipton, Elkan and Narayanaswamy, 2014](https://arxiv.org/abs/1402.1892)).

## How a threshold is tuned

Sort the n scores. A threshold predicts all scores above it, so it matters only between which two distinct scores it
lies: n + 1 cuts at most. What each cut predicts, and hits, are running sums in this order.

* **Hamming, micro-F1 with one threshold; Hamming and macro-F1 with one a label**: functions of these counts, at each
  cut of all scores or of each label's. A mean over labels is greatest where each of its terms is.
* **Macro-F1 with one threshold**: sorting each label's scores gives its F1 before and after each of its scores. These
  changes, in the order of all scores, add up to the sum of the labels' F1 at every cut.
* **Subset accuracy with one threshold**: a row is right for thresholds from its greatest negative score up to, and
  without, its lowest positive one. With the ends of these intervals sorted, +1 where one opens and -1 where one
  closes, the running sum counts the rows that are right. With a threshold a label, rows are right in boxes, and to
  find the point in most boxes is combinatorial: this is refused.
* **Micro-F1 with one threshold a label**: the F1 of a choice x of cuts is $a(x) / b(x)$ with $a = 2 \sum_c h_c$ and
  $b = P + \sum_c k_c$, from hits $h$, predictions $k$ and positives $P$. Dinkelbach's iteration starts at $\lambda_0
  = 0$, takes the $x_j$ for which $a(x) - \lambda_j b(x)$ is greatest, and goes on with $\lambda_{j+1} = a(x_j) /
  b(x_j)$.

Why the last is exact. Let $P > 0$, so that $b > 0$; without positives every F1 is 0. Let $F(\lambda) = \max_x a(x) -
\lambda b(x)$.

1. $F(\lambda)$ is found exactly: $a - \lambda b = -\lambda P + \sum_c (2 h_c - \lambda k_c)$ is a sum with a term a
   label, and each label's own cuts make its term greatest. With $\lambda = p / q$ in whole numbers, so is $q a - p
   b$.
2. $\lambda_{j+1} \ge \lambda_j$, and greater while $F(\lambda_j) > 0$, since $F(\lambda_j) = b(x_j) (\lambda_{j+1} -
   \lambda_j)$. (Each $\lambda_j$ with $j > 0$ is the F1 of some choice, so $F(\lambda_j) \ge 0$.)
3. Where $F(\lambda_j) = 0$, no choice has $a(x) > \lambda_j b(x)$: $\lambda_j$ is the greatest F1, and those who
   reach it are the choices in which every label's term is greatest.
4. It ends soon. By the choice of $x_j$, $F(\lambda_j) \ge a(x_{j+1}) - \lambda_j b(x_{j+1}) = F(\lambda_{j+1}) +
   F(\lambda_j)\, b(x_{j+1}) / b(x_j)$, so $F(\lambda_{j+1}) / F(\lambda_j) + b(x_{j+1}) / b(x_j) \le 1$, and
   $F(\lambda_j)\, b(x_j)$ falls to a quarter or less. For n entries it starts below $4 n^2$ and is at least $1 / (2
   n)$ while it is positive, which leaves fewer than $4 + \tfrac32 \log_2 n$ steps.

## What tuning brings

A linear model with ZLPR, fitted to two thirds of the training rows; thresholds tuned for the metric of the line on
the other third; metrics of the test rows. Hamming is the share of right entries. A threshold a label has more freedom
and less data for each, and need not be better on new rows.

{tuned}

Log-losses of an entry of the test rows, in nats, with the calibration fitted to the same third:

{losses}

Made by `python docs/decision.py FOLDER > docs/decision.md`, with `ml_emotions.npz` and `ml_yeast.npz` in FOLDER."""


if __name__ == "__main__":
    main()
