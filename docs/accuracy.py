"""Errors of the losses against their mpmath twins on every installed library, as a page of Markdown.

``python docs/accuracy.py > docs/accuracy.md``; needs the ``validate`` extra and about a minute.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
from mpmath import mp

from zlpr import losses, reference
from zlpr.validation import max_ulps

DTYPES = ("float16", "bfloat16", "float32", "float64")
LOSSES = ("zlpr_loss", "sigmoid_cross_entropy", "softmax_cross_entropy")
LABELS = ("hard", "soft")
ROWS = {1: 16, 7: 12, 100: 4, 1000: 2}  # classes: rows at each scale
SCALES = (1, 3, 30)
MARGINS = (20, 40, 80)
WIDE = ("float32", "float64")


def numpy_namespace() -> Any:
    """NumPy, which has no bfloat16."""
    return np


def torch_namespace() -> Any:
    """PyTorch through array-api-compat, on the CPU."""
    return importlib.import_module("array_api_compat.torch")


def jax_namespace() -> Any:
    """JAX on the CPU, with float64."""
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    return jax.numpy


NAMESPACES = {"numpy": numpy_namespace, "torch": torch_namespace, "jax": jax_namespace}


def main() -> None:
    """Print the page."""
    libraries = {name: load() for name, load in NAMESPACES.items() if importlib.util.find_spec(name)}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    page = PAGE.format(
        random=random_table(libraries),
        terms=terms_table(libraries),
        saturated=saturated_table(libraries),
        versions=versions,
    )
    print(page)


def random_table(libraries: dict[str, Any]) -> str:
    """Largest errors on random rows, in ulp."""
    lines = [
        [loss, labels, library, *(random_cell(xp, loss, labels, dtype) for dtype in DTYPES)]
        for loss in LOSSES
        for labels in LABELS
        for library, xp in libraries.items()
    ]
    return table(("loss", "labels", "library", *DTYPES), lines)


def random_cell(xp: Any, loss: str, labels: str, dtype: str) -> str:
    """``value / gradient``: the largest errors of one loss in one dtype."""
    if not hasattr(xp, dtype):
        return "-"
    errors = [errors_in_ulp(xp, loss, dtype, *inputs) for inputs in random_rows(loss, labels)]
    value, gradient = (max(column) for column in zip(*errors, strict=True))
    return f"{value:.2f} / {gradient:.2f}"


def random_rows(loss: str, labels: str) -> Iterator[tuple[Any, Any]]:
    """Scores and targets for each number of classes, all scales below one another."""
    for classes, rows in ROWS.items():
        rng = np.random.default_rng(classes)
        scores = np.concatenate([rng.normal(size=(rows, classes)) * scale for scale in SCALES])
        if loss == "softmax_cross_entropy":
            hard, soft = rng.integers(classes, size=len(scores)), rng.dirichlet(np.ones(classes), len(scores))
        else:
            hard, soft = rng.random(scores.shape) < 0.2, rng.random(scores.shape)
        yield scores, hard if labels == "hard" else soft


def errors_in_ulp(xp: Any, loss: str, dtype: str, scores: Any, targets: Any) -> tuple[float, float]:
    """Errors of the values, each in its own ulp, and of the gradients, in that of the row's largest entry."""
    value, gradient, exact = computed(xp, loss, dtype, scores, targets)
    return (
        max_ulps(value[:, None], [[row.value] for row in exact], dtype),
        max_ulps(gradient, [row.gradient for row in exact], dtype),
    )


def terms_table(libraries: dict[str, Any]) -> str:
    """Largest errors of the gradients for soft labels, in ulp of the largest term of the row."""
    lines = [
        [loss, library, *(terms_cell(xp, loss, dtype) for dtype in WIDE)]
        for loss in LOSSES
        for library, xp in libraries.items()
    ]
    return table(("loss", "library", *WIDE), lines)


def terms_cell(xp: Any, loss: str, dtype: str) -> str:
    """The largest error of one loss in one dtype."""
    worst = 0.0
    for scores, targets in random_rows(loss, "soft"):
        _, gradient, exact = computed(xp, loss, dtype, scores, targets)
        terms = [largest_term(loss, s, t) for s, t in zip(scores, targets, strict=True)]
        padded = np.concatenate(
            (gradient, np.asarray(terms)[:, None]), axis=1
        )  # the term sets the unit of its row
        truth = [[*row.gradient, mp.mpf(term)] for row, term in zip(exact, terms, strict=True)]
        worst = max(worst, max_ulps(padded, truth, dtype))
    return f"{worst:.2f}"


def largest_term(loss: str, s: Any, t: Any) -> float:
    """The largest of the numbers whose differences are the gradient of a row with soft labels."""
    if loss == "softmax_cross_entropy":
        terms = np.exp(s - s.max())
        return float(max(np.max(t.sum() * terms / terms.sum()), np.max(t)))
    if loss == "sigmoid_cross_entropy":
        return float(max(np.max((1 - t) / (1 + np.exp(-s))), np.max(t / (1 + np.exp(s)))))
    negative, positive = (1 - t) * np.exp(s), t * np.exp(-s)
    return float(max(np.max(negative / (1 + negative.sum())), np.max(positive / (1 + positive.sum()))))


def saturated_table(libraries: dict[str, Any]) -> str:
    """Relative errors of confident right answers."""
    lines = [
        [loss, library, *(saturated_cell(xp, loss, dtype, margin) for dtype in WIDE for margin in MARGINS)]
        for loss in LOSSES
        for library, xp in libraries.items()
    ]
    return table(("loss", "library", *(f"{dtype}, {margin}" for dtype in WIDE for margin in MARGINS)), lines)


def saturated_cell(xp: Any, loss: str, dtype: str, margin: int) -> str:
    """``value / gradient``: the relative errors of one row, entry by entry."""
    if loss == "softmax_cross_entropy":
        scores, targets = np.asarray([[margin] + [0] * 9], dtype=float), np.asarray([0])
    else:
        scores, targets = (
            np.asarray([[margin] * 2 + [-margin] * 8], dtype=float),
            np.asarray([[True] * 2 + [False] * 8]),
        )
    value, gradient, (exact,) = computed(xp, loss, dtype, scores, targets)
    worst = max(relative(g, e) for g, e in zip(gradient[0], exact.gradient, strict=True))
    return f"{relative(value[0], exact.value):.0e} / {worst:.0e}"


def relative(actual: Any, exact: Any) -> float:
    """Relative error of a number."""
    return float(abs(mp.mpf(float(actual)) - exact) / abs(exact))


def computed(xp: Any, loss: str, dtype: str, scores: Any, targets: Any) -> tuple[Any, Any, list[Any]]:
    """Values and gradients of the rows by the library, as NumPy float64, and the exact ones of the same inputs."""
    s = cast(xp, scores, dtype)
    t = cast(xp, targets, dtype) if targets.dtype.kind == "f" else xp.asarray(targets)
    value, gradient = getattr(losses, loss).value_and_grad(s, t, reduction="none")
    rows = zip(hosted(xp, s).tolist(), hosted(xp, t).tolist(), strict=True)
    exact = [
        twin(loss, tuple(row), target if isinstance(target, int) else tuple(target)) for row, target in rows
    ]
    return hosted(xp, value), hosted(xp, gradient), exact


def cast(xp: Any, x: Any, dtype: str) -> Any:
    """An array of the library; half precisions by way of float32, which rounds alike everywhere."""
    x = x.astype("float32") if dtype in ("float16", "bfloat16") else x
    return xp.astype(xp.asarray(x), getattr(xp, dtype))


def hosted(xp: Any, x: Any) -> Any:
    """The array in NumPy, floating numbers as float64."""
    floating = xp.isdtype(x.dtype, "real floating") if hasattr(xp, "isdtype") else x.dtype.kind == "f"
    return np.asarray(xp.astype(x, xp.float64) if floating else x)


@functools.cache
def twin(loss: str, scores: tuple[float, ...], target: Any) -> Any:
    """The exact loss of a row."""
    return getattr(reference, loss)(scores, target)


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


PAGE = """\
# Accuracy

What the losses of zlpr are off the exact numbers, which their mpmath twins (`zlpr.reference`) compute from the same
inputs. Each entry reads value / gradient.

## Random rows

Largest errors in ulp of the dtype: of a value in its own, of a gradient in that of the largest entry of its row. Rows
of 1, 7, 100 and 1000 classes with normal scores of deviation 1, 3 and 30, seeded; `reduction="none"`. Half precisions
are computed in float32 and rounded once, which alone costs half a unit.

{random}

Where labels are soft, an entry of the gradient is a difference of two terms that may nearly cancel, in ZLPR p - q.
The error does not shrink with the difference. In ulp of the largest term of the row, the same gradients are off by:

{terms}

## Confident right answers

Relative errors, of the gradient the worst entry's. ZLPR and sigmoid cross-entropy: two positives at the margin given
and eight negatives at its opposite. Softmax cross-entropy: the target at the margin, nine others at 0.

{saturated}

Made by `python docs/accuracy.py > docs/accuracy.md`, on the CPU, with {versions}."""


if __name__ == "__main__":
    main()
