"""Errors of the losses against their mpmath twins on every installed library, as a page of Markdown.

``python docs/accuracy.py > docs/accuracy.md``; needs the ``validate`` extra, hypothesis and some minutes. A library
that needs an environment of its own, as CuPy on the emulator does, is measured there first:
``python docs/accuracy.py --measure cupy > docs/accuracy-cupy.json``, and its figures are read from that file.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from mpmath import mp

from zlpr import losses, reference
from zlpr.validation import max_ulps

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import _exact  # the strategies of the tests
from _libraries import load

DTYPES = ("float16", "bfloat16", "float32", "float64")
LOSSES = ("zlpr_loss", "sigmoid_cross_entropy", "softmax_cross_entropy")
LABELS = ("hard", "soft")
ROWS = {1: 16, 7: 12, 100: 4, 1000: 2}  # classes: rows at each scale
SCALES = (1, 3, 30)
MARGINS = (20, 40, 80)
WIDE = ("float32", "float64")


LIBRARIES = ("numpy", "torch", "jax", "strict", "cupy")
SHAPES = ((1, 1), (3, 5), (4, 2), (2, 17), (2, 40), (1, 120))
EXAMPLES = 15


@dataclass(frozen=True)
class Case:
    """A loss and how to draw its arrays after the scores; the twin takes the rows of the same."""

    name: str
    loss: str
    others: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    infinite: bool = True
    scale: float = 1.0
    columns: int = 1  # for each of a shape


def labels(shape: tuple[int, int], dtype: str) -> Any:
    """Hard labels."""
    return st.tuples(_exact.hard_targets_of(shape))


def soft(shape: tuple[int, int], dtype: str) -> Any:
    """Soft labels."""
    return st.tuples(_exact.soft_targets_of(shape, dtype))


def classes(shape: tuple[int, int], dtype: str) -> Any:
    """One class a row."""
    index = st.integers(0, shape[1] - 1)
    return st.tuples(st.lists(index, min_size=shape[0], max_size=shape[0]).map(np.asarray))


def positives(shape: tuple[int, int], dtype: str) -> Any:
    """Indices of positive classes, padded."""
    index = st.integers(-1, shape[1] - 1)
    row = st.lists(index, min_size=3, max_size=3)
    return st.tuples(st.lists(row, min_size=shape[0], max_size=shape[0]).map(np.asarray))


def one_more(shape: tuple[int, int], dtype: str) -> Any:
    """Another array of scores."""
    return st.tuples(_exact.scores_of(shape, dtype))


def moderate(count: int) -> Callable[..., Any]:
    """Other arrays of everyday size."""

    def draw(shape: tuple[int, int], dtype: str) -> Any:
        return st.tuples(
            *(_exact.scores_of(shape, dtype).map(lambda x: np.clip(x, -30, 30)) for _ in range(count))
        )

    return draw


CASES = (
    Case("zlpr_loss", "zlpr_loss", labels),
    Case("zlpr_loss, threshold 2.5", "zlpr_loss", labels, {"threshold": 2.5}),
    Case("zlpr_loss, threshold -60", "zlpr_loss", labels, {"threshold": -60.0}),
    Case("zlpr_loss, temperature 0.3", "zlpr_loss", labels, {"temperature": 0.3}),
    Case("zlpr_loss, soft labels", "zlpr_loss", soft, {}, False),
    Case("sparse_zlpr_loss", "sparse_zlpr_loss", positives),
    Case("softmax_cross_entropy", "softmax_cross_entropy", classes, {}, False),
    Case("k_subset_cross_entropy", "k_subset_cross_entropy", labels, {}, False),
    Case("sigmoid_cross_entropy", "sigmoid_cross_entropy", labels),
    Case("focal_loss", "focal_loss", labels),
    Case("asymmetric_loss", "asymmetric_loss", labels),
    Case("lsep_loss", "lsep_loss", labels),
    Case("circle_loss", "circle_loss", labels, {}, False, 0.02),
    Case("circle_loss, unified", "circle_loss", labels, {"weighting": "unified", "scale": 3.0}),
    Case("zlpr_divergence", "zlpr_divergence", one_more, {}, False),
    Case("zlpr_divergence, one-way", "zlpr_divergence", one_more, {"symmetric": False}, False),
    Case("softmax_divergence", "softmax_divergence", moderate(1), {}, False, 0.01),
    Case("gaussian_divergence", "gaussian_divergence", moderate(1), {}, False, 0.01, 2),
    Case("gaussian_kl", "gaussian_kl", moderate(1), {}, False),
    Case("gaussian_nll", "gaussian_nll", moderate(2), {}, False),
)


def main() -> None:
    """Print the page, or the figures of one library."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--measure", choices=LIBRARIES, help="print the figures of this library alone, as JSON"
    )
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(extremes(asked.measure)))
        return
    installed = [name for name in ("numpy", "torch", "jax") if importlib.util.find_spec(name)]
    namespaces = {name: load(name).namespace for name in installed}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in installed)
    page = PAGE.format(
        extremes=extremes_table(),
        examples=EXAMPLES,
        shapes=", ".join(map(str, SHAPES)),
        random=random_table(namespaces),
        terms=terms_table(namespaces),
        saturated=saturated_table(namespaces),
        versions=versions,
    )
    print(page)


def extremes_table() -> str:
    """Largest errors over drawn inputs, of every loss and library; a library without figures is named."""
    measured = {}
    for name in LIBRARIES:
        stored = Path(__file__).with_name(f"accuracy-{name}.json")
        measured[name] = json.loads(stored.read_text()) if stored.exists() else None
    lines = [
        [case.name, name, *(figures[case.name].get(dtype, "-") for dtype in DTYPES)]
        for case in CASES
        for name, figures in measured.items()
        if figures is not None and case.name in figures
    ]
    missing = [
        f"{name} ({'all' if figures is None else ', '.join(lacking)})"
        for name, figures in measured.items()
        if (lacking := [case.name for case in CASES if figures is None or case.name not in figures])
    ]
    note = f"\n\nNot run: {'; '.join(missing)}." if missing else ""
    return table(("loss", "library", *DTYPES), lines) + note


def extremes(library: str) -> dict[str, dict[str, str]]:
    """``value / gradient`` of every loss and dtype of a library."""
    xp = load(library)
    figures: dict[str, dict[str, str]] = {}
    for case in CASES:
        figures[case.name] = {}
        for dtype in (name for name in DTYPES if name in xp.dtypes):
            errors = [worst_drawn(xp, case, shape, dtype) for shape in SHAPES]
            value, gradient = (max(column) for column in zip(*errors, strict=True))
            figures[case.name][dtype] = f"{value:.2f} / {gradient:.2f}"
            print(library, case.name, dtype, figures[case.name][dtype], file=sys.stderr, flush=True)
    return figures


def worst_drawn(xp: Any, case: Case, shape: tuple[int, int], dtype: str) -> tuple[float, float]:
    """The largest errors of the value and of any gradient over what hypothesis draws."""
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    shape = (shape[0], shape[1] * case.columns)
    worst = [0.0, 0.0]

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=DRAW_ONLY,
    )
    @given(_exact.scores_of(shape, wide, infinite=case.infinite), case.others(shape, wide))
    def measure(scores: Any, others: Any) -> None:
        for i, error in enumerate(errors_of_draw(xp, case, dtype, scores * case.scale, others)):
            worst[i] = max(worst[i], error)

    measure()
    return worst[0], worst[1]


DRAW_ONLY = [phase for phase in settings().phases if phase.name == "generate"]


def errors_of_draw(xp: Any, case: Case, dtype: str, scores: Any, others: Any) -> tuple[float, float]:
    """Errors of one call of a loss, in ulp of the dtype."""
    rule = getattr(losses, case.loss)
    arrays = [
        xp.asarray(scores, dtype),
        *(xp.asarray(x, dtype if x.dtype.kind == "f" else None) for x in others),
    ]
    names = [name for name in rule.wrt if name in rule.names and name != "targets"]
    value, gradients = rule.value_and_grad(*arrays, argnums=names, reduction="none", **case.options)
    rows = zip(*(xp.to_numpy(x).tolist() for x in arrays), strict=True)
    twin = getattr(reference, case.loss)
    exact = [twin(*row, **case.options) for row in rows]
    worst = error_of(xp, value, [[row.value] for row in exact], dtype, case)
    slopes = [
        error_of(xp, g, [gradient_of(row, name) for row in exact], dtype, case)
        for g, name in zip(gradients, names, strict=True)
    ]
    return worst, max(slopes)


def gradient_of(row: Any, name: str) -> list[Any]:
    """The exact gradient of a row in one of its arrays."""
    return row.gradients[name] if hasattr(row, "gradients") else row.gradient


def error_of(xp: Any, actual: Any, exact: Any, dtype: str, case: Case) -> float:
    """In ulp of the row's scale; that of soft gradients, differences of numbers up to 1, is at least 1."""
    values = xp.to_numpy(actual).astype(float)
    values = values[:, None] if values.ndim == 1 else values
    if case.others is soft and values.shape[1] > 1:
        values = np.concatenate((values, np.ones((len(values), 1))), axis=1)
        exact = [[*row, mp.mpf(1)] for row in exact]
    flushed = np.where(np.abs(values) < float(_exact._vanishing(dtype)), 0.0, values)
    return max_ulps(flushed, _exact._flushed(np.asarray(exact, dtype=object), dtype), dtype)


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

## Every loss, with the extremes

Largest errors in ulp over what hypothesis draws, {examples} draws of each of the shapes {shapes}: everyday scores and
scores up to 2000, ties, infinities where the loss has a limit there, empty and full label sets. A value's ulp is its
own, a gradient's that of the largest entry of its row, floored at the smallest normal number (numbers within a factor
100 of that count as 0); with soft labels, of the larger of p and q, which 1 bounds. Half precisions are computed in
float32 and rounded once.

{extremes}

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

Made by `python docs/accuracy.py --measure NAME > docs/accuracy-NAME.json` for every library, then
`python docs/accuracy.py > docs/accuracy.md`, on the CPU, with {versions}; CuPy is its own code on an
[emulator of the GPU runtime](../tests/emulation/README.md)."""


if __name__ == "__main__":
    main()
