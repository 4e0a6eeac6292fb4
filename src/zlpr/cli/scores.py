"""How good a model's scores are: the numbers of every report of the command line."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from zlpr.losses import sigmoid_cross_entropy, zlpr_loss

Matrix: TypeAlias = np.ndarray[Any, Any]

TITLES = {
    "loss": "loss",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "subset_accuracy": "subset accuracy",
    "lrap": "LRAP",
    "ranking_loss": "ranking loss",
}

_LOSSES = {"zlpr": zlpr_loss, "sigmoid": sigmoid_cross_entropy}


def evaluate(scores: Matrix, Y: Matrix, loss: str = "zlpr", threshold: float = 0.0) -> dict[str, float]:
    """Measure scores against labels; a label is predicted where its score is above the threshold.

    Parameters
    ----------
    scores : (n, C) floating array
    Y : (n, C) array of 0 and 1
        Rows of -1 are unlabelled and do not count.
    loss : {"zlpr", "sigmoid"}
        The loss to report, the mean over the rows.
    threshold : float
        The score above which a label is predicted.

    Returns
    -------
    dict
        The keys of `TITLES`. LRAP is the label ranking average precision; a label that neither occurs nor is
        predicted has F1 0.
    """
    from sklearn.metrics import f1_score, label_ranking_average_precision_score, label_ranking_loss

    labelled = np.all(Y >= 0, axis=1)
    scores, Y = scores[labelled], Y[labelled]
    predicted = scores > threshold
    options = {"threshold": threshold} if loss == "zlpr" and threshold else {}
    return {
        "loss": float(_LOSSES[loss](scores, Y, **options)),
        "micro_f1": float(f1_score(Y, predicted, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(Y, predicted, average="macro", zero_division=0)),
        "subset_accuracy": float((predicted == Y).all(axis=1).mean()),
        "lrap": float(label_ranking_average_precision_score(Y, scores)),
        "ranking_loss": float(label_ranking_loss(Y, scores)),
    }
