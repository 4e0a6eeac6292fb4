"""A sheet of named columns of numbers: what a ``.csv`` or ``.arff`` file holds before labels are picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zlpr.cli.errors import InputError


@dataclass(frozen=True)
class Sheet:
    """Columns with names, and the labels among them where the file says so."""

    names: tuple[str, ...]
    values: np.ndarray[Any, Any]
    label_names: tuple[str, ...] = ()


def column_index(path: Path, names: Sequence[str], wanted: str) -> int:
    """The place of a column, or InputError that names it and some of those there are."""
    if wanted in names:
        return list(names).index(wanted)
    shown = ", ".join(map(repr, names[-8:]))
    raise InputError(
        f"{path}: missing column {wanted!r}; the {'last ' if len(names) > 8 else ''}columns are {shown}"
    )
