"""The grey images that `zlpr generate` trains on: scikit-learn's digits, or an array of a ``.npz`` file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from zlpr.cli.errors import InputError
from zlpr.cli.readers import loaded, npz_split

Matrix: TypeAlias = np.ndarray[Any, Any]

DIGITS = "digits"
_USUAL_NAMES = ("X", "images")


@dataclass(frozen=True)
class Scale:
    """The units of a set of images, and the way to [0, 1] and back.

    Attributes
    ----------
    low, high : float
        The smallest and the largest value in the set.
    dtype : str
        Of the file.
    """

    low: float
    high: float
    dtype: str

    def to_unit(self, X: Matrix, dtype: str) -> Matrix:
        """Values of the file's units, as numbers between 0 and 1."""
        return ((X.astype(np.float64) - self.low) / (self.high - self.low)).astype(dtype)

    def back(self, unit: Matrix) -> Matrix:
        """Numbers in the file's units and dtype, those beyond 0 and 1 moved there; whole ones where the file's are."""
        values = self.low + np.clip(unit.astype(np.float64), 0.0, 1.0) * (self.high - self.low)
        if np.dtype(self.dtype).kind == "f":
            return values.astype(self.dtype)
        found = np.rint(values).astype(self.dtype)
        limits = np.iinfo(
            self.dtype
        )  # the largest integers of 64 bits are no floating numbers, and the next is beyond
        return np.where(values >= limits.max, limits.max, found).astype(self.dtype)


@dataclass(frozen=True)
class ImageSet:
    """Images as rows of pixels, in the units of the file.

    Attributes
    ----------
    X : (n, height * width) array
    shape : (height, width)
    is_train : (n,) bool array or None
        The file's own split.
    """

    X: Matrix
    shape: tuple[int, int]
    is_train: Matrix | None = None

    @property
    def scale(self) -> Scale:
        """The units."""
        return Scale(float(self.X.min()), float(self.X.max()), self.X.dtype.name)


def image_shape(text: str) -> tuple[int, int]:
    """The height and width of ``--shape 28x28``."""
    found = re.fullmatch(r"\s*(\d+)\s*[x,]\s*(\d+)\s*", text)
    if not found or not all(int(side) for side in found.groups()):
        raise InputError(f"--shape must be height x width, such as 28x28, not {text!r}")
    return int(found[1]), int(found[2])


def read_images(source: str, array: str | None = None, shape: tuple[int, int] | None = None) -> ImageSet:
    """Read a set of images.

    Parameters
    ----------
    source : str
        ``digits``, or the path of a ``.npz`` file with images (n, height, width) or rows of pixels (n, pixels),
        integers or floats of any range, and perhaps a split ``is_train``.
    array : str, optional
        The name of the array; by default X, images, or the only one with two or three axes.
    shape : (int, int), optional
        Height and width for rows of pixels; by default they are square.

    Returns
    -------
    ImageSet
        Finite, and not all of one value.

    Raises
    ------
    InputError
        For anything else; it names what was expected.
    """
    if source == DIGITS:
        if array is not None or shape is not None:
            raise InputError("--array and --shape are for a .npz file, not for the digits")
        from sklearn.datasets import load_digits

        return ImageSet(load_digits().data.astype(np.uint8), (8, 8))
    path = Path(source)
    if path.suffix.lower() != ".npz":
        raise InputError(f"--data must be {DIGITS} or a .npz file, not {source!r}")
    if not path.is_file():
        raise InputError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'no such file'}")
    parts = loaded(path)
    name = _name_of(path, parts, array)
    images = _rows(path, name, parts[name], shape)
    return ImageSet(images.X, images.shape, npz_split(path, parts, len(images.X)))


def _name_of(path: Path, parts: dict[str, Matrix], array: str | None) -> str:
    if not parts:
        raise InputError(f"{path}: the file holds no array")
    found = ", ".join(sorted(parts))
    if array is not None:
        if array not in parts:
            raise InputError(f"{path}: has no array {array!r}; found {found}")
        return array
    usual = [name for name in _USUAL_NAMES if name in parts]
    fitting = usual or [name for name, values in parts.items() if values.ndim in (2, 3)]
    if len(fitting) != 1 and not usual:
        raise InputError(f"{path}: which array holds the images? Give --array with one of {found}")
    return fitting[0]


def _rows(path: Path, name: str, values: Matrix, shape: tuple[int, int] | None) -> ImageSet:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} must hold numbers, but its dtype is {values.dtype}")
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise InputError(
            f"{path}: {name} must have the shape (images, height, width) or (images, pixels), not {values.shape}"
        )
    sides = _sides(path, name, values, shape)
    X = values.reshape(len(values), -1)
    X = X.astype(np.uint8) if X.dtype.kind == "b" else X
    if not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).all(axis=1)))
        raise InputError(f"{path}: {name} must be finite, but image {row + 1} holds nan or infinity")
    low, high = float(X.min()), float(X.max())
    if high - low == math.inf:
        raise InputError(f"{path}: the pixels of {name} go from {low:g} to {high:g}, too far apart to scale")
    if low == high:
        raise InputError(f"{path}: every pixel of {name} is {X.flat[0]}; there is nothing to learn")
    return ImageSet(X, sides)


def _sides(path: Path, name: str, values: Matrix, shape: tuple[int, int] | None) -> tuple[int, int]:
    if values.ndim == 3:
        height, width = values.shape[1:]
        if shape not in (None, (height, width)):
            raise InputError(f"{path}: {name} holds images of {height}x{width}, which --shape must be too")
        return height, width
    pixels = values.shape[1]
    if shape is None:
        side = math.isqrt(pixels)
        if side * side != pixels:
            raise InputError(
                f"{path}: the {pixels} pixels of {name} make no square; give --shape HEIGHTxWIDTH"
            )
        return side, side
    if shape[0] * shape[1] != pixels:
        raise InputError(
            f"{path}: --shape {shape[0]}x{shape[1]} takes {shape[0] * shape[1]} pixels, but {name} has {pixels}"
        )
    return shape
