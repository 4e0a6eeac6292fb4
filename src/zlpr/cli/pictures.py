"""The two pictures of `zlpr demo`: learning curves, and test pictures with their true and predicted labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from zlpr.cli.digits import CELL, SIDE

Matrix: TypeAlias = np.ndarray[Any, Any]

_COLOURS = {"numpy": "#2a6fbb", "torch": "#d1495b", "cupy": "#3a9d5d", "jax": "#8e5ea2"}
_DASHES = {"numpy": "-", "torch": (0, (4, 4)), "cupy": (4, (4, 4)), "jax": (0, (1, 2))}
_NAMES = {"numpy": "NumPy", "torch": "PyTorch", "cupy": "CuPy", "jax": "JAX"}
_DARK, _GREY, _RIGHT, _WRONG = "#222222", "#777777", "#2c7a4b", "#c0392b"


def learning_curves(curves: Mapping[str, Sequence[float]], sigmoid: Sequence[float]) -> bytes:
    """Draw the training loss of every library, and how far the libraries are apart.

    Parameters
    ----------
    curves : mapping of str to sequence of float
        The ZLPR loss after each epoch, for every library; NumPy's first.
    sigmoid : sequence of float
        The loss of the network trained with sigmoid cross-entropy.

    Returns
    -------
    bytes
        A PNG picture.
    """
    others = [name for name in curves if name != "numpy"]
    figure = Figure(figsize=(10.5 if others else 6.2, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if others else 1, squeeze=False)[0]
    _draw_losses(axes[0], curves, sigmoid)
    if others:
        _draw_differences(axes[1], curves)
    return _png(figure)


def _draw_losses(ax: Axes, curves: Mapping[str, Sequence[float]], sigmoid: Sequence[float]) -> None:
    # The curves lie on one another: NumPy's is drawn broad and pale, the others as dashes and dots on top of it.
    for name, curve in curves.items():
        width, alpha = (7, 0.35) if name == "numpy" else (2.2, 1.0)
        (line,) = ax.plot(_epochs(curve), curve, color=_COLOURS[name], lw=width, alpha=alpha)
        line.set(linestyle=_DASHES[name], label=f"ZLPR, {_NAMES[name]}")
    ax.plot(_epochs(sigmoid), sigmoid, color=_GREY, lw=1.5, ls="--", label="sigmoid cross-entropy, NumPy")
    ax.set_yscale("log")
    for set_formatter in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))
    _finish(ax, "Training loss", "loss of a picture (nats)")
    ax.legend(frameon=False)


def _draw_differences(ax: Axes, curves: Mapping[str, Sequence[float]]) -> None:
    base = np.asarray(curves["numpy"])
    for name, curve in curves.items():
        if name != "numpy":
            apart = np.abs(np.asarray(curve) - base) / base
            # A difference of exactly 0 has no place on a logarithmic axis: it is drawn at one unit of rounding.
            ax.plot(
                _epochs(curve), np.maximum(apart, 1e-16), color=_COLOURS[name], lw=1.8, label=_NAMES[name]
            )
    ax.set_yscale("log")
    ax.set_ylim(5e-17, 1e-6)
    ax.axhline(1e-9, color=_GREY, lw=1, ls=":")
    ax.text(1, 1.4e-9, "agreement asked for: 1e-9", color=_GREY, fontsize=9)
    _finish(ax, "Difference from NumPy", "relative difference of the loss")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.98))


def _epochs(curve: Sequence[float]) -> range:
    return range(1, len(curve) + 1)


def _finish(ax: Axes, title: str, ylabel: str) -> None:
    ax.set_title(title, loc="left", color=_DARK, fontweight="bold")
    ax.set_xlabel("epoch")
    ax.set_ylabel(ylabel)
    ax.grid(True, which="major", color="#e5e5e5", lw=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def samples(X: Matrix, Y: Matrix, scores: Matrix, rows: int = 3, columns: int = 7) -> bytes:
    """Draw test pictures with the digits that occur and those that were predicted.

    Parameters
    ----------
    X : (n, pixels) array
    Y : (n, 10) array of 0 and 1
    scores : (n, 10) array
        A digit is predicted where its score is above 0.
    rows, columns : int
        How many pictures; up to a third of them are ones with mistakes.

    Returns
    -------
    bytes
        A PNG picture.
    """
    predicted = scores > 0
    correct = (predicted == Y).all(axis=1)
    chosen = _chosen(Y, correct, rows * columns)
    figure = Figure(figsize=(1.55 * columns, 2.05 * rows + 0.75), layout="constrained")
    figure.suptitle(
        f"Test pictures: {correct.mean():.0%} of {len(Y)} have every digit right",
        x=0.01, ha="left", fontweight="bold", color=_DARK,
    )  # fmt: skip
    for ax, index in zip(figure.subplots(rows, columns).ravel(), chosen, strict=False):
        _draw_sample(ax, X[index], Y[index], predicted[index])
    figure.supxlabel(
        "true digits above, predicted digits below;  red: predicted but absent,  red in brackets: present but missed",
        fontsize=9, color=_GREY,
    )  # fmt: skip
    return _png(figure)


def _chosen(Y: Matrix, correct: Matrix, count: int) -> Matrix:
    """The first pictures of every number of labels in turn, those with mistakes last."""
    wrong = np.flatnonzero(~correct)[: count // 3]
    right = np.flatnonzero(correct)
    digits = Y[right].sum(axis=1)
    turn = np.array([(digits[:place] == number).sum() for place, number in enumerate(digits)], dtype=int)
    taken = right[np.lexsort((digits, turn))][: count - len(wrong)]
    return np.concatenate([taken[np.argsort(Y[taken].sum(axis=1), kind="stable")], wrong])


def _draw_sample(ax: Axes, pixels: Matrix, target: Matrix, predicted: Matrix) -> None:
    right = bool((target == predicted).all())
    ax.imshow(pixels.reshape(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=1)
    for border in range(CELL, SIDE, CELL):
        ax.axhline(border - 0.5, color="#d5d5d5", lw=0.8)
        ax.axvline(border - 0.5, color="#d5d5d5", lw=0.8)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(_RIGHT if right else _WRONG)
        spine.set_linewidth(1 if right else 2)
    ax.set_title(_listed(np.flatnonzero(target)), fontsize=10, color=_DARK, pad=3)
    _write_digits(ax, target, predicted)


def _write_digits(ax: Axes, target: Matrix, predicted: Matrix) -> None:
    """The predicted digits in one line under the picture, each in the colour of its truth."""
    marks = []
    for digit in range(len(target)):
        if predicted[digit]:
            marks.append((str(digit), _RIGHT if target[digit] else _WRONG))
        elif target[digit]:
            marks.append((f"({digit})", _WRONG))
    for place, (text, colour) in enumerate(marks or [("none", _RIGHT)]):
        x = 0.5 + 0.17 * (place - (max(len(marks), 1) - 1) / 2)
        ax.text(x, -0.04, text, transform=ax.transAxes, ha="center", va="top", fontsize=10, color=colour)


def _listed(digits: Matrix) -> str:
    return "  ".join(str(digit) for digit in digits) or "none"


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
