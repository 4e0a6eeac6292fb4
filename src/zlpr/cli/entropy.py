"""`zlpr entropy`: the entropy of columns together, or what every two of them tell about each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.table import Table as TerminalTable

from zlpr import _walk
from zlpr._array import Array, to_numpy
from zlpr.cli.backends import converter, require_backend
from zlpr.cli.errors import InputError
from zlpr.cli.files import require_writable, write_whole
from zlpr.cli.readers import Table, read_columns
from zlpr.cli.tables import console

Matrix: TypeAlias = np.ndarray[Any, Any]

_MATRIX_COLUMNS, _LISTED = 8, 20  # more columns are listed by pairs, the strongest ones
_STANDARDIZE: dict[str, bool | str] = {"deviation": True, "rank": "rank", "none": False}


@dataclass(frozen=True)
class EntropyOptions:
    """The options of the command."""

    data: Path
    pairs: bool
    columns: str | None
    array: str | None
    k: int
    estimator: str
    standardize: str
    permutations: int
    seed: int
    duplicates: str
    base: float | None
    memory: int | None
    out: Path
    backend: str
    report: str
    quiet: bool

    @property
    def unit(self) -> str:
        """The unit of the results."""
        if self.base is None:
            return "nats"
        return "bits" if self.base == 2 else f"logarithms to base {self.base:g}"


def measure_file(options: EntropyOptions) -> None:
    """Estimate, print, and write the picture of a matrix.

    Raises
    ------
    InputError
        For anything the user can correct; then no file has been touched.
    """
    require_backend(options.backend)
    of_pairs = options.permutations, options.estimator, options.standardize
    if not options.pairs and of_pairs != (0, "ksg1", "deviation"):
        raise InputError("--permutations, --estimator and --standardize go with --pairs")
    if options.pairs:
        if options.out.suffix.lower() != ".png":
            raise InputError(f"--out must end in .png, not {options.out.name!r}")
        require_writable(options.out, options.data)
    table = read_columns(options.data, options.columns, options.array)
    move = converter(options.backend)
    with _bounded(options.memory):
        if options.pairs:
            _measure_pairs(options, table, move)
        else:
            _measure_together(options, table, move)


def _bounded(memory: int | None) -> AbstractContextManager[None]:
    return nullcontext() if memory is None else _walk.query_memory(memory << 20)


def _measure_together(options: EntropyOptions, table: Table, move: Callable[[Matrix], Array]) -> None:
    from zlpr.entropy import knn_entropy

    with _said(options, ", ".join(map(repr, table.feature_names))):
        value, error = knn_entropy(
            move(table.X), k=options.k, duplicates=options.duplicates, base=options.base, return_std=True
        )
    entropy, standard_error = (float(to_numpy(v)) for v in (value, error))
    if math.isnan(entropy):  # on a device, where no value is read on the way
        raise InputError(f"{options.data}: {_REPEATED}")
    rows, columns = table.X.shape
    if options.report == "json":
        found = {"entropy": entropy, "standard_error": standard_error, "unit": options.unit}
        print(json.dumps(found | _about(options, table), indent=2))
        return
    shown = TerminalTable(title=f"{options.data.name}: entropy on {options.backend}", title_justify="left")
    for name in ("rows", "columns", "k", f"entropy ({options.unit})", "standard error"):
        shown.add_column(name, justify="right")
    shown.add_row(str(rows), str(columns), str(options.k), f"{entropy:.4f}", f"{standard_error:.4f}")
    console().print(shown)


def _about(options: EntropyOptions, table: Table) -> dict[str, Any]:
    return {
        "rows": table.X.shape[0],
        "columns": list(table.feature_names),
        "k": options.k,
        "backend": options.backend,
    }


def _measure_pairs(options: EntropyOptions, table: Table, move: Callable[[Matrix], Array]) -> None:
    from zlpr.cli.heat_map import heat_map

    columns = table.X.shape[1]
    if columns < 2:
        raise InputError(f"{options.data}: --pairs takes two columns or more, and there is one")
    values, found_p = _matrices(options, table, move)
    picture = heat_map(values, table.feature_names, f"mutual information ({options.unit})")
    write_whole(options.out, picture)
    p_values = found_p if options.permutations else None
    if options.report == "json":
        found = {"mutual_information": _listed(values), "unit": options.unit, "estimator": options.estimator}
        if p_values is not None:
            found["p_values"] = _listed(p_values)
        print(json.dumps(found | _about(options, table) | {"picture": str(options.out)}, indent=2))
        return
    title = (
        f"{options.data.name}: mutual information ({options.unit}), {options.estimator}, {len(table.X)} rows"
    )
    shown = _matrix_table if columns <= _MATRIX_COLUMNS else _list_table
    console().print(shown(title, table.feature_names, values, p_values))
    print(f"picture: {options.out}")


def _matrices(
    options: EntropyOptions, table: Table, move: Callable[[Matrix], Array]
) -> tuple[Matrix, Matrix]:
    """Mutual information of every two columns and its p-value; nan for a column and itself."""
    from zlpr.entropy import knn_mutual_information, permutation_test

    names, columns = table.feature_names, [move(column[:, None]) for column in table.X.T.copy()]
    values, p_values = (np.full((len(names), len(names)), math.nan) for _ in range(2))
    chosen = {
        "k": options.k,
        "estimator": options.estimator,
        "standardize": _STANDARDIZE[options.standardize],
        "duplicates": options.duplicates,
        "base": options.base,
    }

    def information(x: Array, y: Array) -> Array:
        return knn_mutual_information(x, y, **chosen)

    pairs = list(combinations(range(len(names)), 2))
    with _pairs_bar(len(pairs), options.quiet) as advance:
        for i, j in pairs:
            with _said(options, f"{names[i]!r} and {names[j]!r}"):
                if options.permutations:
                    test = permutation_test(
                        information, columns[i], columns[j], n=options.permutations, rng=options.seed
                    )
                    values[i, j] = values[j, i] = float(to_numpy(test.value))
                    p_values[i, j] = p_values[j, i] = float(to_numpy(test.p_value))
                else:
                    values[i, j] = values[j, i] = float(to_numpy(information(columns[i], columns[j])))
            if math.isnan(values[i, j]):
                raise InputError(f"{options.data}: {names[i]!r} and {names[j]!r}: {_REPEATED}")
            advance()
    return values, p_values


_REPEATED = (
    "rows repeat, so that neighbours are at distance 0: take --duplicates drop or clamp, or a larger -k"
)


@contextmanager
def _said(options: EntropyOptions, columns: str) -> Iterator[None]:
    """What the estimators refuse, in the words of the command line."""
    try:
        yield
    except ValueError as error:
        why = _REPEATED if "at distance 0" in str(error) else str(error)
        raise InputError(f"{options.data}: {columns}: {why}") from None


@contextmanager
def _pairs_bar(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Yield what to call after every pair: a bar where standard error is a terminal, or silence."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bars = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *bars, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task("pairs", total=total)
        yield lambda: progress.advance(task)


def _listed(values: Matrix) -> list[list[float | None]]:
    return [[None if math.isnan(v) else v for v in row] for row in values.tolist()]


def _matrix_table(
    title: str, names: tuple[str, ...], values: Matrix, p_values: Matrix | None
) -> TerminalTable:
    shown = TerminalTable(title=title, title_justify="left")
    shown.add_column("")
    for name in names:
        shown.add_column(name, justify="right")
    for i, name in enumerate(names):
        shown.add_row(name, *(_cell(values, p_values, i, j) for j in range(len(names))))
    return shown


def _cell(values: Matrix, p_values: Matrix | None, i: int, j: int) -> str:
    if i == j:
        return ""
    p = "" if p_values is None else f" (p {p_values[i, j]:.3g})"
    return f"{values[i, j]:.3f}{p}"


def _list_table(title: str, names: tuple[str, ...], values: Matrix, p_values: Matrix | None) -> TerminalTable:
    pairs = sorted(combinations(range(len(names)), 2), key=lambda pair: -values[pair])
    shown = TerminalTable(
        title=f"{title}: the {min(_LISTED, len(pairs))} largest of {len(pairs)} pairs", title_justify="left"
    )
    for name in ("column", "column"):
        shown.add_column(name)
    shown.add_column("mutual information", justify="right")
    for i, j in pairs[:_LISTED]:
        shown.add_row(names[i], names[j], _cell(values, p_values, i, j))
    return shown
