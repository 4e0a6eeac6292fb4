"""The picture of `zlpr entropy --pairs`: a matrix as colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_DARK, _EMPTY = "#222222", "#eeeeee"
_WRITTEN = 12  # so many columns leave room for numbers
_LONGEST = 18  # letters of a name


def heat_map(values: np.ndarray[Any, Any], names: Sequence[str], label: str) -> bytes:
    """Draw a symmetric matrix, with its numbers where they fit.

    Parameters
    ----------
    values : (d, d) array
        nan where there is no value, as on the diagonal.
    names : sequence of str
        The rows and columns.
    label : str
        What the colours mean.

    Returns
    -------
    bytes
        A PNG picture.
    """
    count = len(names)
    side = min(16.0, max(4.2, 2.0 + 0.62 * count))
    figure = Figure(figsize=(side + 1.2, side))
    ax = figure.subplots()
    largest = max(float(np.nanmax(values)), 1e-9)
    image = ax.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0.0, vmax=largest)
    ax.set_facecolor(_EMPTY)
    short = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names]
    size = 10 if count <= 30 else max(3, 300 / count)
    ax.set_xticks(range(count), short, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
    ax.set_yticks(range(count), short, fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if count <= _WRITTEN:
        for i, j in np.argwhere(~np.isnan(values)):
            colour = "white" if values[i, j] < 0.6 * largest else _DARK
            ax.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=9)
    bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(label, color=_DARK)
    bar.outline.set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
    return content.getvalue()
