"""The tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from zlpr.cli.scores import TITLES


def print_scores(title: str, rows: Mapping[str, Mapping[str, float]], seconds: Mapping[str, str]) -> None:
    """Print one row of scores a data set, with the seconds of training where there are any."""
    table = Table(title=title, title_justify="left")
    table.add_column("rows")
    for name in TITLES.values():
        table.add_column(name, justify="right")
    if seconds:
        table.add_column("seconds", justify="right")
    for name, scores in rows.items():
        cells = [f"{scores[key]:.4f}" for key in TITLES]
        table.add_row(name, *cells, *([seconds.get(name, "")] if seconds else []))
    console().print(table)


def console() -> Console:
    """A console for results: as wide as the terminal, and never narrower than a table when piped into a file."""
    probe = Console(highlight=False)
    return probe if probe.is_terminal else Console(highlight=False, width=max(probe.width, 120))
