"""Data files become one `Table`: ``.npz``, ``.csv``, ``.csv.gz``, ``.svm``, ``.libsvm`` and ``.arff``; or ``.npy``.

Every reader checks what it reads and names the row (counted from 1, after a header) and the column of what is
wrong. Parsing is scikit-learn's and NumPy's where they have it; ARFF has a file of its own.
"""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from zlpr.cli.arff import parse_arff
from zlpr.cli.errors import InputError
from zlpr.cli.sheet import Sheet, column_index

Matrix: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Table:
    """A data set in memory.

    Attributes
    ----------
    X : (n, d) float64 array
        The features, dense and finite.
    Y : (n, C) uint8 or int8 array or None
        The label indicator matrix, or None where the file has no labels. A row of -1 (in the file, or of nan) is
        unlabelled.
    feature_names, label_names : tuple of str
        Names of the columns; numbers where the file gives none.
    is_train : (n,) bool array or None
        The file's own training split.
    named : bool
        Whether the file itself names the features.
    """

    X: Matrix
    Y: Matrix | None
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    is_train: Matrix | None = None
    named: bool = True


def read_table(path: Path, labels: str | None = None) -> Table:
    """Read a data set to train on.

    Parameters
    ----------
    path : Path
        The data file; its suffix says what it is.
    labels : str, optional
        Which columns are labels: names with commas between, or a number N for the last N columns. ``.csv`` needs
        it; ``.arff`` has it in its header; in ``.npz`` it picks columns of Y by name; in ``.svm`` N is their number.

    Returns
    -------
    Table
        With labels, which have been checked to be 0 or 1.

    Raises
    ------
    InputError
        For anything that cannot be trained on.
    """
    return _checked(path, _reader(path)(path, labels))


def read_features(path: Path, feature_names: Sequence[str], label_names: Sequence[str]) -> Table:
    """Read a data set to predict on: labels are taken where the file has them, features as the model knows them.

    Parameters
    ----------
    path : Path
        The data file.
    feature_names, label_names : sequence of str
        The columns the model was trained on.

    Returns
    -------
    Table
        Features in the model's order; Y is None where the file lacks one of the model's labels.

    Raises
    ------
    InputError
        If the file cannot be read, or its features are not those of the model.
    """
    kind = _kind(path)
    if kind == ".npz":
        table = _read_npz(path, None, need_labels=False)
    elif kind == ".svm":
        table = _read_svm(path, None, n_features=len(feature_names), label_names=label_names)
    else:
        table = _sheet_table(_read_sheet(path, kind), label_names)
    return _checked(path, _aligned(path, table, feature_names, label_names))


def read_columns(path: Path, columns: str | None = None, array: str | None = None) -> Table:
    """Read columns of numbers, without labels.

    Parameters
    ----------
    path : Path
        A ``.npy``, ``.npz``, ``.csv``, ``.csv.gz`` or ``.arff`` file.
    columns : str, optional
        Names with commas between; every column by default.
    array : str, optional
        The array of a ``.npz`` file; by default X, or the only one with two axes.

    Returns
    -------
    Table
        Without labels, finite.

    Raises
    ------
    InputError
        If the file cannot be read, or a column or array is not there.
    """
    kind = _kind(path, _COLUMN_SUFFIXES)
    if array is not None and kind != ".npz":
        raise InputError(f"--array {array}: {path.name} is no .npz file")
    if kind == ".npy":
        table = _numbered(_columns_of("the array", path, loaded(path)))
    elif kind == ".npz":
        table = _npz_columns(path, loaded(path), array)
    else:
        sheet = _read_sheet(path, kind)
        table = Table(sheet.values, None, sheet.names, ())
    if columns is not None:
        wanted = _split_names(columns, "--columns")
        chosen = [column_index(path, table.feature_names, name) for name in wanted]
        table = replace(table, X=table.X[:, chosen], feature_names=tuple(wanted))
    return _checked(path, table)


def _kind(path: Path, known_suffixes: dict[str, tuple[str, ...]] | None = None) -> str:
    table = _SUFFIXES if known_suffixes is None else known_suffixes
    kinds = [kind for kind, suffixes in table.items() if path.name.lower().endswith(suffixes)]
    if not kinds:
        known = ", ".join(suffix for suffixes in table.values() for suffix in suffixes)
        raise InputError(f"{path}: unknown kind of file; expected a name ending in {known}")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not path.is_file():
        raise InputError(f"cannot read {path}: not a file")
    if not size:
        raise InputError(f"{path}: the file is empty")
    return kinds[0]


_SUFFIXES = {
    ".npz": (".npz",),
    ".csv": (".csv", ".csv.gz"),
    ".svm": (".svm", ".libsvm"),
    ".arff": (".arff",),
}
_COLUMN_SUFFIXES = {".npy": (".npy",), **{kind: _SUFFIXES[kind] for kind in (".npz", ".csv", ".arff")}}


def _reader(path: Path) -> Callable[[Path, str | None], Table]:
    kind = _kind(path)
    if kind == ".npz":
        return _read_npz
    if kind == ".svm":
        return _read_svm
    return lambda path, labels: _sheet_table(sheet := _read_sheet(path, kind), _chosen(path, sheet, labels))


# ---------------------------------------------------------------- .npz

_NPZ_ERRORS = (OSError, ValueError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def _read_npz(path: Path, labels: str | None, *, need_labels: bool = True) -> Table:
    parts = loaded(path)
    X = _npz_features(path, parts)
    Y = _numeric(path, "Y", parts["Y"]) if "Y" in parts else None
    if Y is None and need_labels:
        raise InputError(f"{path}: has no array 'Y' (found {', '.join(sorted(parts))})")
    if Y is not None and len(Y) != len(X):
        raise InputError(f"{path}: X has {len(X)} rows but Y has {len(Y)}")
    table = Table(
        X=X,
        Y=Y,
        feature_names=_npz_names(path, parts, "feature_names", X.shape[1]),
        label_names=_npz_names(path, parts, "label_names", 0 if Y is None else Y.shape[1]),
        is_train=npz_split(path, parts, len(X)),
        named="feature_names" in parts,
    )
    return table if labels is None else _with_labels(path, table, labels)


def loaded(path: Path) -> Any:
    """The array of a ``.npy`` file, or the arrays of a ``.npz`` file by name."""
    kind = path.suffix.lower()
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if kind == ".npy":
                return np.asarray(content)
            with content as archive:
                return {name: archive[name] for name in archive.files}
    except (*_NPZ_ERRORS, AttributeError) as error:
        raise InputError(f"{path}: not a readable {kind} file ({error})") from None


def _npz_columns(path: Path, parts: dict[str, Matrix], array: str | None) -> Table:
    if array is None and ("X" in parts or "X_indptr" in parts):
        table = _numbered(_npz_features(path, parts))
    else:
        flat = [name for name, values in parts.items() if values.ndim == 2]
        name = flat[0] if array is None and len(flat) == 1 else array
        if name is None or name not in parts:
            found = ", ".join(sorted(parts)) or "nothing"
            asked = (
                "which array? Give --array with one of" if name is None else f"has no array {name!r}; found"
            )
            raise InputError(f"{path}: {asked} {found}")
        table = _numbered(_columns_of(name, path, parts[name]))
    for key in ("feature_names", "columns"):
        if key in parts and parts[key].shape == (table.X.shape[1],):
            return replace(table, feature_names=tuple(map(str, parts[key])))
    return table


def _columns_of(name: str, path: Path, values: Matrix) -> Matrix:
    return _numeric(path, name, values[:, None] if values.ndim == 1 else values)


def _numbered(X: Matrix) -> Table:
    return Table(X, None, tuple(str(number) for number in range(X.shape[1])), (), named=False)


def _npz_features(path: Path, parts: dict[str, Matrix]) -> Matrix:
    if "X" in parts:
        return _numeric(path, "X", parts["X"])
    needed = ("X_indices", "X_indptr", "X_shape")
    missing = [name for name in needed if name not in parts]
    if missing:
        raise InputError(f"{path}: has no array 'X' (found {', '.join(sorted(parts)) or 'nothing'})")
    from scipy.sparse import csr_matrix

    indices, indptr, shape = (parts[name] for name in needed)
    data = parts.get("X_data", np.ones(len(indices)))
    try:
        stored = (np.asarray(data, float), indices.astype(np.int64), indptr.astype(np.int64))
        sparse = csr_matrix(stored, shape=tuple(int(n) for n in shape))
        sparse.check_format(full_check=True)
    except (ValueError, TypeError, IndexError) as error:
        raise InputError(f"{path}: the CSR parts of X do not fit together ({error})") from None
    return np.asarray(sparse.toarray())


def _numeric(path: Path, name: str, values: Matrix) -> Matrix:
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} must hold numbers, but its dtype is {values.dtype}")
    if values.ndim != 2:
        raise InputError(
            f"{path}: {name} must be two-dimensional (rows, columns), but its shape is {values.shape}"
        )
    return values.astype(np.float64)


def _npz_names(path: Path, parts: dict[str, Matrix], key: str, count: int) -> tuple[str, ...]:
    if key not in parts or not count:
        return tuple(str(number) for number in range(count))
    names = tuple(str(name) for name in parts[key].ravel())
    if len(names) != count:
        raise InputError(f"{path}: {key} has {len(names)} names for {count} columns")
    return names


def npz_split(path: Path, parts: dict[str, Matrix], rows: int) -> Matrix | None:
    """The training split of a ``.npz`` file, checked, or None."""
    key = "is_train" if "is_train" in parts else "is_train_ours"
    if key not in parts:
        return None
    split = parts[key]
    if split.shape != (rows,) or split.dtype.kind not in "biu" or not np.isin(split, (0, 1)).all():
        raise InputError(
            f"{path}: {key} must be {rows} booleans, but it is {split.dtype} of shape {split.shape}"
        )
    return split.astype(bool)


def _with_labels(path: Path, table: Table, labels: str) -> Table:
    assert table.Y is not None
    if labels.strip().isdigit() and labels.strip() not in table.label_names:
        if int(labels) != table.Y.shape[1]:
            raise InputError(f"{path}: --labels {labels}, but Y has {table.Y.shape[1]} columns")
        return table
    wanted = _split_names(labels)
    chosen = [column_index(path, table.label_names, name) for name in wanted]
    return replace(table, Y=table.Y[:, chosen], label_names=tuple(wanted))


# ---------------------------------------------------------------- .svm


def _read_svm(
    path: Path,
    labels: str | None,
    *,
    n_features: int | None = None,
    label_names: Sequence[str] | None = None,
) -> Table:
    from sklearn.datasets import load_svmlight_file

    try:
        X, sets = load_svmlight_file(str(path), multilabel=True, n_features=n_features)
    except (ValueError, IndexError, OverflowError) as error:
        why = str(error).partition("\n")[0]
        if n_features is not None and "n_features" in why:
            why = f"its feature numbers go beyond the {n_features} features of the model"
        raise InputError(f"{path}: not multi-label libsvm text ({why})") from None
    if not sets:
        raise InputError(f"{path}: the file has no rows")
    names = _svm_label_names(path, sets, labels) if label_names is None else tuple(label_names)
    try:
        Y: Matrix | None = _svm_indicators(path, sets, names)
    except InputError:
        if label_names is None:
            raise
        Y = None  # prediction needs no labels, and these are not the model's
    features = tuple(str(number) for number in range(X.shape[1]))
    return Table(np.asarray(X.toarray(), np.float64), Y, features, names, named=False)


def _svm_indicators(path: Path, sets: Sequence[tuple[float, ...]], names: Sequence[str]) -> Matrix:
    column = {name: place for place, name in enumerate(names)}
    Y = np.zeros((len(sets), len(names)))
    for row, numbers in enumerate(sets):
        for number in numbers:
            if f"{number:.0f}" not in column:
                raise InputError(
                    f"{path}: row {row + 1} has the label {number:g}, expected {names[0]} to {names[-1]}"
                )
            Y[row, column[f"{number:.0f}"]] = 1
    return Y


def _svm_label_names(path: Path, sets: Sequence[tuple[float, ...]], labels: str | None) -> tuple[str, ...]:
    for row, numbers in enumerate(sets):
        for number in numbers:
            if number < 0 or number != int(number):
                raise InputError(
                    f"{path}: row {row + 1} has the label {number:g}; labels are numbers from 0 or 1 up"
                )
    used = {int(number) for numbers in sets for number in numbers}
    if not used:
        raise InputError(f"{path}: no row has a label")
    first = 0 if 0 in used else 1
    if labels is None:
        return tuple(str(number) for number in range(first, max(used) + 1))
    if not labels.strip().isdigit():
        raise InputError(f"--labels {labels}: libsvm text has no column names; give the number of labels")
    return tuple(str(number) for number in range(first, first + int(labels)))


# ---------------------------------------------------------------- .csv and .arff


def _read_sheet(path: Path, kind: str) -> Sheet:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix.lower() == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return parse_arff(path, text) if kind == ".arff" else _parse_csv(path, text)


def _parse_csv(path: Path, text: str) -> Sheet:
    try:
        header, *rows = [row for row in csv.reader(io.StringIO(text), skipinitialspace=True) if row]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as CSV ({error})") from None
    names = tuple(name.strip() for name in header)
    if not rows:
        raise InputError(f"{path}: has a header row but no data")
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if repeated:
        raise InputError(f"{path}: the header names {', '.join(map(repr, sorted(repeated)))} more than once")
    return Sheet(names, _cells_to_numbers(path, names, rows))


def _cells_to_numbers(path: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Matrix:
    values = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(
                f"{path}: row {number + 1} has {len(row)} cells, but the header has {len(names)}"
            )
        try:
            values[number] = row
        except ValueError:
            name, cell = _first_not_a_number(names, row)
            found = repr(cell) if cell.strip() else "an empty cell"
            raise InputError(
                f"{path}: row {number + 1}, column {name!r}: expected a number, found {found}"
            ) from None
    return values


def _first_not_a_number(names: Sequence[str], row: Sequence[str]) -> tuple[str, str]:
    for name, cell in zip(names, row, strict=True):
        try:
            float(cell)
        except ValueError:
            return name, cell
    raise AssertionError("every cell is a number")


def _split_names(labels: str, option: str = "--labels") -> list[str]:
    names = [name.strip() for name in next(csv.reader([labels], skipinitialspace=True), []) if name.strip()]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(f"{option} names {twice!r} twice")
    return names


def _chosen(path: Path, sheet: Sheet, labels: str | None) -> Sequence[str]:
    if labels is None:
        if not sheet.label_names:
            raise InputError(
                f"{path}: which columns are labels? Give --labels with their names, or how many come last"
            )
        return sheet.label_names
    wanted = labels.strip()
    if wanted in sheet.names or not wanted.isdigit():
        names = _split_names(labels)
        if not names:
            raise InputError(
                "--labels is empty; give names with commas between, or how many columns come last"
            )
        return [sheet.names[column_index(path, sheet.names, name)] for name in names]
    if not 0 < int(wanted) < len(sheet.names):
        raise InputError(f"{path}: --labels {wanted}, but the file has {len(sheet.names)} columns in all")
    return sheet.names[-int(wanted) :]


def _sheet_table(sheet: Sheet, labels: Sequence[str]) -> Table:
    place = {name: column for column, name in enumerate(sheet.names)}
    present = [name for name in labels if name in place]
    rest = [name for name in sheet.names if name not in set(present)]
    columns = [place[name] for name in rest]
    complete = len(present) == len(labels)
    Y = sheet.values[:, [place[name] for name in present]] if complete else None
    return Table(sheet.values[:, columns], Y, tuple(rest), tuple(present) if complete else ())


# ---------------------------------------------------------------- checks


def _aligned(path: Path, table: Table, features: Sequence[str], labels: Sequence[str]) -> Table:
    if table.Y is not None and tuple(table.label_names) != tuple(labels):
        table = replace(table, Y=None, label_names=())
    if not table.named or _are_numbers(features):
        if table.X.shape[1] != len(features):
            raise InputError(
                f"{path}: has {table.X.shape[1]} features, but the model was trained on {len(features)}"
            )
        return table
    place = {name: column for column, name in enumerate(table.feature_names)}
    missing = [name for name in features if name not in place]
    if missing:
        raise InputError(
            f"{path}: the model was trained on {len(features)} features, of which {len(missing)} are not among the "
            f"{len(place)} of this file: missing column {missing[0]!r}"
        )
    return replace(table, X=table.X[:, [place[name] for name in features]], feature_names=tuple(features))


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name == str(number) for number, name in enumerate(names))


def _checked(path: Path, table: Table) -> Table:
    rows, columns = table.X.shape
    if not rows or not columns:
        raise InputError(f"{path}: has {rows} rows and {columns} features; at least one of each is needed")
    if not np.isfinite(table.X).all():
        row, column = np.argwhere(~np.isfinite(table.X))[0]
        name, value = table.feature_names[column], table.X[row, column]
        raise InputError(f"{path}: row {row + 1}, column {name!r}: expected a finite number, found {value}")
    if table.Y is None:
        return table
    if not table.Y.shape[1]:
        raise InputError(f"{path}: has no label column")
    unlabelled = (np.isnan(table.Y) | (table.Y == -1)).all(axis=1, keepdims=True)
    wrong = ~(np.isin(table.Y, (0, 1)) | unlabelled)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        name, value = table.label_names[column], table.Y[row, column]
        raise InputError(f"{path}: row {row + 1}, label {name!r}: expected 0 or 1, found {value:g}")
    if unlabelled.any():
        return replace(table, Y=np.where(unlabelled, -1, table.Y).astype(np.int8))
    return replace(table, Y=table.Y.astype(np.uint8))
