"""A progress bar on standard error, by rich."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(unit: str, total: int, verbose: int) -> Iterator[Callable[[int, float], None]]:
    """Yield ``report(done, loss)``: a bar where `verbose` is not 0, else silence."""
    if not verbose:
        yield lambda done, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(unit),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4g}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(unit, total=total, loss=float("nan"))
        yield lambda done, loss: bar.update(task, completed=done, loss=loss)
