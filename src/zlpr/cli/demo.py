"""`zlpr demo`: one network, one seed, every array library, one table."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from rich.table import Table

from zlpr._array import to_numpy
from zlpr.cli.backends import BACKENDS, converter, require_backend, why_unusable
from zlpr.cli.digits import DigitSets, digit_sets
from zlpr.cli.errors import InputError
from zlpr.cli.files import require_writable, write_whole
from zlpr.cli.interrupts import noting_interrupts
from zlpr.cli.pictures import learning_curves, samples
from zlpr.cli.scores import TITLES, evaluate
from zlpr.cli.tables import console

Matrix: TypeAlias = np.ndarray[Any, Any]

HIDDEN = (200,)
BATCH_SIZE = 100


@dataclass(frozen=True)
class Run:
    """What one library made of the task."""

    library: str
    loss: str
    scores: Matrix
    measured: Mapping[str, float]
    loss_curve: Sequence[float]
    seconds: float


def run_demo(
    backends: Sequence[str] | None, folder: Path, epochs: int, seed: int, quick: bool, quiet: bool
) -> list[Run]:
    """Train the same network on every library, print the table and write the pictures.

    Parameters
    ----------
    backends : sequence of str or None
        The libraries; every one that can be used here by default. NumPy always runs, as the one to compare with.
    folder : Path
        Where ``learning-curves.png`` and ``samples.png`` go.
    epochs, seed : int
        Of the training.
    quick : bool
        A quarter of the pictures.
    quiet : bool
        No progress bars.

    Returns
    -------
    list of Run
        The runs in the order of the table.
    """
    for name in backends or ():
        require_backend(name)
    _make_folder(folder)
    data = digit_sets(seed, 1000 if quick else 4000, 250 if quick else 1000)
    unusable = {name: why_unusable(name) for name in BACKENDS}
    wanted = [
        name
        for name in BACKENDS
        if name == "numpy" or (unusable[name] is None and name in (backends or BACKENDS))
    ]

    terminal = console()
    terminal.print(
        f"{len(data.X_train)} training and {len(data.X_test)} test pictures with 0 to 4 handwritten digits each; "
        f"{data.X_train.shape[1]} pixels, {HIDDEN[0]} hidden units, {data.Y_train.shape[1]} labels; "
        f"{epochs} epochs in float64, seed {seed}."
    )
    jobs: list[tuple[str, Literal["zlpr", "sigmoid"]]] = [(name, "zlpr") for name in wanted]
    jobs.append(("numpy", "sigmoid"))
    runs = []
    for name, loss in jobs:
        if not quiet and sys.stderr.isatty():
            print(f"{name}, {_LOSS_TITLES[loss]}:", file=sys.stderr)
        runs.append(_train(name, loss, data, epochs, seed, quiet))
    left_out = {} if backends else {name: why for name, why in unusable.items() if why}
    terminal.print(_table(runs, left_out))
    _say_agreement(terminal, runs)
    _write_pictures(terminal, folder, runs, data)
    return runs


_LOSS_TITLES = {"zlpr": "ZLPR", "sigmoid": "sigmoid cross-entropy"}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    for name in ("learning-curves.png", "samples.png"):
        require_writable(folder / name)


def _train(
    name: str, loss: Literal["zlpr", "sigmoid"], data: DigitSets, epochs: int, seed: int, quiet: bool
) -> Run:
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    from zlpr.models import MultilabelClassifier

    move = converter(name)
    mean = data.X_train.mean(axis=0)
    X, Y, X_test = move(data.X_train - mean), move(data.Y_train), move(data.X_test - mean)
    model = MultilabelClassifier(
        hidden_layer_sizes=HIDDEN,
        loss=loss,
        max_iter=epochs,
        n_iter_no_change=epochs + 1,  # all of them, on every library
        batch_size=BATCH_SIZE,
        random_state=seed,
        verbose=int(not quiet and sys.stderr.isatty()),
    )
    started = time.perf_counter()
    # On matrices as small as these, threads of BLAS mostly wait for one another: on a busy machine ten times over.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"), noting_interrupts() as noted:
        warnings.simplefilter(
            "ignore", UserWarning
        )  # that a fixed number of epochs has not converged is no news
        model.fit(X, Y)
    if noted:
        raise KeyboardInterrupt  # a comparison with one side cut short says nothing
    scores = to_numpy(model.decision_function(X_test))
    seconds = time.perf_counter() - started
    curve = [float(value) for value in model.loss_curve_]
    return Run(name, loss, scores, evaluate(scores, data.Y_test, loss), curve, seconds)


def deviation(run: Run, reference: Run) -> float:
    """The largest difference of two runs' test scores, relative to the largest score."""
    return float(np.abs(run.scores - reference.scores).max() / np.abs(reference.scores).max())


def _table(runs: Sequence[Run], left_out: Mapping[str, str]) -> Table:
    table = Table(title="The same network on every library", title_justify="left")
    table.add_column("library")
    table.add_column("trained with", no_wrap=True)
    shown = {key: title for key, title in TITLES.items() if key != "ranking_loss"}
    for title in shown.values():
        table.add_column(title, justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("deviation from NumPy", justify="right")
    for run in runs:
        cells = [f"{run.measured[key]:.4f}" for key in shown]
        apart = "" if run.loss != "zlpr" else "-" if run is runs[0] else f"{deviation(run, runs[0]):.1e}"
        table.add_row(run.library, _LOSS_TITLES[run.loss], *cells, f"{run.seconds:.1f}", apart)
        if run.loss == "zlpr" and run is _last_zlpr(runs):
            for name, why in left_out.items():
                table.add_row(name, f"not run ({why.partition(':')[0]})", style="dim")
            table.add_section()
    return table


def _last_zlpr(runs: Sequence[Run]) -> Run:
    return [run for run in runs if run.loss == "zlpr"][-1]


def _say_agreement(terminal: Any, runs: Sequence[Run]) -> None:
    others = [run for run in runs[1:] if run.loss == "zlpr"]
    if others:
        worst = max(deviation(run, runs[0]) for run in others)
        terminal.print(
            f"Largest deviation of a library from NumPy: {worst:.1e} (max|Δscore| / max|score|, test pictures)"
        )
    else:
        terminal.print("Only NumPy ran; PyTorch, CuPy and JAX join when they are installed.")


def _write_pictures(terminal: Any, folder: Path, runs: Sequence[Run], data: DigitSets) -> None:
    curves = {run.library: run.loss_curve for run in runs if run.loss == "zlpr"}
    sigmoid = next(run.loss_curve for run in runs if run.loss == "sigmoid")
    for name, content in (
        ("learning-curves.png", learning_curves(curves, sigmoid)),
        ("samples.png", samples(data.X_test, data.Y_test, runs[0].scores)),
    ):
        write_whole(folder / name, content)
        terminal.print(f"picture: {folder / name}")
