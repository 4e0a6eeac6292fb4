"""The pictures of `zlpr generate`: grids of grey images."""

from __future__ import annotations

import io
import math
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

Matrix: TypeAlias = np.ndarray[Any, Any]

_DARK, _GREY = "#222222", "#777777"
_TILE, _MARGIN, _HEADING, _NARROWEST = 0.52, 0.15, 0.65, 4.2  # inches


def reconstruction_grid(
    originals: Matrix, reconstructions: Matrix, shape: tuple[int, int], title: str
) -> bytes:
    """Draw pairs: each image above what the decoder makes of its code.

    Parameters
    ----------
    originals, reconstructions : (n, pixels) arrays
        Between 0 and 1.
    shape : (height, width)
    title : str

    Returns
    -------
    bytes
        A PNG picture.
    """
    columns = math.ceil(math.sqrt(2 * len(originals)))
    lines = [
        rows[start : start + columns]
        for start in range(0, len(originals), columns)
        for rows in (originals, reconstructions)
    ]
    return _drawn(lines, shape, title, "each image above its reconstruction", pairs=True)


def sample_grid(samples: Matrix, shape: tuple[int, int], title: str) -> bytes:
    """Draw samples; arguments as in `reconstruction_grid`."""
    columns = math.ceil(math.sqrt(len(samples)))
    lines = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    return _drawn(lines, shape, title, "decoded from codes drawn from N(0, I)")


def interpolation_grid(lines: list[Matrix], shape: tuple[int, int], title: str, note: str) -> bytes:
    """Draw one line of images for every way from a code to another; arguments as in `reconstruction_grid`."""
    return _drawn(lines, shape, title, note)


def _drawn(
    lines: list[Matrix], shape: tuple[int, int], title: str, note: str, *, pairs: bool = False
) -> bytes:
    canvas = _canvas(lines, shape, pairs)
    gaps = 1.1  # of an image's width to the next
    across = max(_NARROWEST, max(map(len, lines)) * gaps * _TILE * shape[1] / max(shape))
    down = across * canvas.shape[0] / canvas.shape[1]
    width, height = across + 2 * _MARGIN, down + _HEADING + _MARGIN
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((_MARGIN / width, _MARGIN / height, across / width, down / height))
    ax.imshow(np.ma.masked_invalid(canvas), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    left = _MARGIN / width
    figure.text(left, 1 - 0.14 / height, title, fontsize=10, fontweight="bold", color=_DARK, va="top")
    figure.text(left, 1 - 0.38 / height, note, fontsize=8.5, color=_GREY, va="top")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def _canvas(lines: list[Matrix], shape: tuple[int, int], pairs: bool) -> Matrix:
    """All images on one sheet with white gaps between (nan), wider ones after each pair of lines."""
    height, width = shape
    gap = max(1, max(shape) // 14)
    wide = 3 * gap if pairs else gap
    columns = max(map(len, lines))
    tops = [line * (height + gap) + (line // 2 if pairs else 0) * (wide - gap) for line in range(len(lines))]
    canvas = np.full((tops[-1] + height, columns * (width + gap) - gap), math.nan)
    for top, line in zip(tops, lines, strict=True):
        for place, image in enumerate(line):
            left = place * (width + gap)
            canvas[top : top + height, left : left + width] = image.reshape(shape)
    return canvas
