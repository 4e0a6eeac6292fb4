"""Random rows by the million: no nan from finite input, no negative loss, no gradient outside its proven bounds.

    python tests/fuzz_losses.py [--rows N] [--seed S] [LOSS ...]

Rows mix everyday, huge, tied and subnormal scores in float32 and float64, all label sets among them. ``nox -s fuzz``
runs ten million rows of every loss; the suite a few thousand. The bounds are derived in ``docs/derivations``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from zlpr import losses

BATCH = 100_000
WIDTHS = (1, 2, 3, 7)
CORPUS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    16.0,
    -17.0,
    40.0,
    -88.5,
    89.0,
    300.0,
    -710.0,
    1e4,
    -1e12,
    1e30,
    3e38,
    -3e38,
    1e-40,
)


class Rows(NamedTuple):
    """A batch: scores, hard and soft labels, another array of scores, indices of classes and of positives."""

    scores: np.ndarray
    other: np.ndarray
    hard: np.ndarray
    soft: np.ndarray
    chosen: np.ndarray
    positives: np.ndarray


def batches(rows: int, seed: int) -> Iterator[Rows]:
    """Batches of rows, together as many as asked for; the widths and dtypes take turns."""
    rng = np.random.default_rng(seed)
    for i, start in enumerate(range(0, rows, BATCH)):
        shape = (min(BATCH, rows - start), WIDTHS[i % len(WIDTHS)])
        dtype = ("float32", "float64")[i // len(WIDTHS) % 2]
        hard = rng.random(shape) < rng.choice(
            [0.0, 0.1, 0.5, 1.0], size=(shape[0], 1), p=[0.1, 0.4, 0.4, 0.1]
        )
        soft = np.where(rng.random(shape) < 0.3, hard, rng.random(shape))
        yield Rows(
            scores_of(rng, shape).astype(dtype),
            scores_of(rng, shape).astype(dtype),
            hard,
            soft.astype(dtype),
            rng.integers(0, shape[1], shape[0]),
            rng.integers(-1, shape[1], (shape[0], 2)),
        )


def scores_of(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal rows of any scale, with entries of the corpus and ties in some."""
    scale = 10.0 ** rng.choice([-30, -3, 0, 0, 1, 2, 4, 30], size=(shape[0], 1))
    scores = rng.normal(size=shape) * scale
    scores = np.where(rng.random(shape) < 0.15, rng.choice(CORPUS, size=shape), scores)
    return np.where(rng.random((shape[0], 1)) < 0.05, scores[:, :1], scores)


class Bounded(NamedTuple):
    """A loss as a call that gives values and gradients of rows; bounds of its gradients, their sum, and its value."""

    call: Callable[[Rows], tuple[Any, Any]]
    entry: float
    total: float = math.inf
    least: float = 0.0


def hard(loss: Any, **opts: Any) -> Callable[[Rows], tuple[Any, Any]]:
    return lambda r: loss.value_and_grad(r.scores, r.hard, reduction="none", **opts)


def soft(loss: Any, **opts: Any) -> Callable[[Rows], tuple[Any, Any]]:
    return lambda r: loss.value_and_grad(r.scores, r.soft, reduction="none", **opts)


FOCUS = 1 + 2 / math.e  # a power of two: 1 + γ / e, see docs/derivations/focal.md
LOSSES = {
    "zlpr_loss, hard": Bounded(hard(losses.zlpr_loss), 1, 2),
    "zlpr_loss, soft": Bounded(soft(losses.zlpr_loss), 1, 2),
    "zlpr_loss, threshold and temperature": Bounded(
        hard(losses.zlpr_loss, threshold=30.0, temperature=0.3), 1, 2
    ),
    "sparse_zlpr_loss": Bounded(
        lambda r: losses.sparse_zlpr_loss.value_and_grad(r.scores, r.positives, reduction="none"), 1, 2
    ),
    "softmax_cross_entropy, classes": Bounded(
        lambda r: losses.softmax_cross_entropy.value_and_grad(r.scores, r.chosen, reduction="none"), 1, 2
    ),
    "softmax_cross_entropy, smoothed": Bounded(
        lambda r: losses.softmax_cross_entropy.value_and_grad(
            r.scores, r.chosen, reduction="none", label_smoothing=0.1
        ),
        1,
        2,
    ),
    "sigmoid_cross_entropy, hard": Bounded(hard(losses.sigmoid_cross_entropy), 1),
    "sigmoid_cross_entropy, soft": Bounded(soft(losses.sigmoid_cross_entropy), 1),
    "focal_loss": Bounded(hard(losses.focal_loss), FOCUS),
    "asymmetric_loss": Bounded(hard(losses.asymmetric_loss), 1 + 4 / math.e),
    "lsep_loss": Bounded(hard(losses.lsep_loss), 1, 2),
    "k_subset_cross_entropy": Bounded(hard(losses.k_subset_cross_entropy), 1),
    "k_subset_cross_entropy, at most 2": Bounded(
        lambda r: losses.k_subset_cross_entropy.value_and_grad(
            r.scores, r.hard & (np.cumsum(r.hard, axis=1) <= 2), reduction="none", at_most=2
        ),
        1,
    ),
    "circle_loss, unified": Bounded(
        hard(losses.circle_loss, weighting="unified", scale=1.0, margin=0.25), 1, 2
    ),
    "zlpr_divergence": Bounded(
        lambda r: losses.zlpr_divergence.value_and_grad(r.scores, r.other, reduction="none"), math.inf
    ),
    "zlpr_divergence, one-way": Bounded(
        lambda r: losses.zlpr_divergence.value_and_grad(r.scores, r.other, reduction="none", symmetric=False),
        math.inf,
    ),
    "softmax_divergence": Bounded(
        lambda r: losses.softmax_divergence.value_and_grad(r.scores, r.other, reduction="none"), math.inf
    ),
    "softmax_divergence, to the second scores": Bounded(
        lambda r: losses.softmax_divergence.value_and_grad(r.scores, r.other, reduction="none", argnums=1),
        1,
        2,
    ),
    "gaussian_divergence": Bounded(
        lambda r: losses.gaussian_divergence.value_and_grad(
            np.hstack((r.scores, r.other)), np.hstack((r.other, r.scores)), reduction="none"
        ),
        math.inf,
    ),
    "gaussian_divergence, to the second outputs": Bounded(
        lambda r: losses.gaussian_divergence.value_and_grad(
            np.hstack((r.scores, r.other)), np.hstack((r.other, r.scores)), reduction="none", argnums=1
        ),
        math.inf,
    ),
    "gaussian_kl": Bounded(
        lambda r: losses.gaussian_kl.value_and_grad(r.scores, r.other, reduction="none"), math.inf
    ),
    "gaussian_nll": Bounded(
        lambda r: losses.gaussian_nll.value_and_grad(r.scores, r.soft, r.other, reduction="none"),
        math.inf,
        least=-math.inf,
    ),
}


def faults(name: str, rows: Rows) -> list[str]:
    """What is wrong with a loss on these rows, in words with the worst row."""
    loss = LOSSES[name]
    values, gradients = loss.call(rows)
    slack = 1 + 8 * float(np.finfo(rows.scores.dtype).eps)
    size = np.abs(gradients)
    with np.errstate(over="ignore"):
        total = size.sum(axis=1, dtype=np.float64)
    checks = {
        "nan": np.isnan(values) | np.isnan(gradients).any(axis=1),
        "value below its bound": values < loss.least,
        "entry beyond its bound": (size > loss.entry * slack).any(axis=1),
        "sum beyond its bound": total > loss.total * slack,
    }
    return [
        f"{name}, {what}: {count} rows, first {rows.scores[i].tolist()} with {rows.hard[i].tolist()}: "
        f"{values[i]!r}, {gradients[i].tolist()}"
        for what, bad in checks.items()
        if (count := int(bad.sum()))
        for i in [int(bad.argmax())]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="only those whose name holds this")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    names = [n for n in LOSSES if not asked.losses or any(part in n for part in asked.losses)]
    found: list[str] = []
    for name in names:
        wrong = [fault for rows in batches(asked.rows, asked.seed) for fault in faults(name, rows)]
        print(
            f"{name}: {asked.rows:,} rows, {'nothing' if not wrong else f'{len(wrong)} batches'} wrong",
            flush=True,
        )
        found += wrong
    if found:
        raise SystemExit("\n".join(found[:20]))


if __name__ == "__main__":
    main()
