"""`zlpr fit`: read, standardise, train, write the model, print its scores."""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from zlpr._array import to_numpy
from zlpr.cli.backends import converter, require_backend
from zlpr.cli.errors import InputError, say
from zlpr.cli.files import require_writable
from zlpr.cli.interrupts import noting_interrupts
from zlpr.cli.model_file import Model, save_model
from zlpr.cli.readers import Table, read_table
from zlpr.cli.scores import evaluate
from zlpr.cli.tables import print_scores

Matrix: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FitOptions:
    """The options of the command, as `zlpr fit --help` lists them."""

    data: Path
    labels: str | None = None
    out: Path = Path("model.safetensors")
    backend: str = "numpy"
    hidden: tuple[int, ...] = ()
    loss: str = "zlpr"
    solver: str = "auto"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    alpha: float | None = None
    noise: float | None = None
    label_smoothing: float | None = None
    gradient_penalty: float | None = None
    adversarial: str | None = None
    adversarial_epsilon: float | None = None
    adversarial_weight: float | None = None
    seed: int = 0
    dtype: str = "float64"
    test_size: float | None = None
    report: str = "table"
    quiet: bool = False


def hidden_sizes(text: str) -> tuple[int, ...]:
    """The layer sizes of ``--hidden 100,50``."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--hidden must be sizes with commas between, such as 100,50, not {text!r}")
    return tuple(int(part) for part in parts)


def fit_model(options: FitOptions) -> bool:
    """Train and write a model.

    Parameters
    ----------
    options : FitOptions
        What the user asked for.

    Returns
    -------
    bool
        Whether Ctrl-C cut the training short; the model is written all the same.

    Raises
    ------
    InputError
        For anything the user can correct; then no file has been touched.
    """
    require_backend(options.backend)
    require_writable(options.out, options.data)
    parameters = estimator_parameters(options)
    table = read_table(options.data, options.labels)
    train, test = split_rows(table, options)
    if not (train.Y == 1).any():
        raise InputError(f"{options.data}: no training row has a positive label; there is nothing to learn")
    mean, scale = scaling(options.data, table, train.X)

    move = converter(options.backend)
    prepared = [
        (move(((rows.X - mean) / scale).astype(options.dtype)), rows.Y)
        for rows in (train, test)
        if (rows.Y >= 0).any()
    ]
    started = time.perf_counter()
    estimator, interrupted = _train(parameters, prepared[0][0], move(_for_training(train.Y)))
    seconds = time.perf_counter() - started
    layers = [{name: to_numpy(value) for name, value in layer.items()} for layer in estimator.params_]
    constructor = {name: value for name, value in estimator.get_params().items() if name != "verbose"}
    save_model(options.out, Model(layers, mean, scale, table.feature_names, table.label_names, constructor))

    scores = [evaluate(to_numpy(estimator.decision_function(X)), Y, options.loss) for X, Y in prepared]
    _print_report(options, estimator, scores, seconds)
    if interrupted:
        say(
            f"training stopped after {_rounds(estimator)}; {options.out} holds the model so far",
            "interrupted",
        )
    return interrupted


def estimator_parameters(options: FitOptions) -> dict[str, Any]:
    """The estimator's parameters the options ask for; what they leave open stays the estimator's default."""
    _require_magnitudes(options)
    given = {
        "max_iter": options.epochs,
        **{
            name: getattr(options, name)
            for name in ("batch_size", "learning_rate", "alpha", "adversarial", *_MAGNITUDES)
        },
    }
    return {
        "hidden_layer_sizes": options.hidden,
        "loss": options.loss,
        "solver": _solver(options),
        "random_state": options.seed,
        "verbose": int(not options.quiet and sys.stderr.isatty()),
    } | {name: value for name, value in given.items() if value is not None}


_NEED_MINIBATCHES = ("noise", "gradient_penalty", "adversarial")
_MAGNITUDES = ("noise", "label_smoothing", "gradient_penalty", "adversarial_epsilon", "adversarial_weight")


def _solver(options: FitOptions) -> str:
    """The solver that is asked for, or the one that can do what is asked."""
    linear = not options.hidden
    perturbing = [name for name in _NEED_MINIBATCHES if getattr(options, name)]
    if options.solver == "auto":
        return "lbfgs" if linear and not perturbing else "minibatch"
    if options.solver == "lbfgs" and not linear:
        raise InputError(
            "--solver lbfgs is for linear models; leave --hidden empty or take --solver minibatch"
        )
    if options.solver == "lbfgs" and perturbing:
        raise InputError(f"--solver lbfgs cannot take {_flag(perturbing[0])}; take --solver minibatch")
    return options.solver


def _require_magnitudes(options: FitOptions) -> None:
    if options.learning_rate is not None and not 0 < options.learning_rate < np.inf:
        raise InputError(f"--learning-rate must be positive, not {options.learning_rate:g}")
    for name in ("alpha", *_MAGNITUDES):
        value = getattr(options, name)
        if value is not None and not 0 <= value < np.inf:
            raise InputError(f"{_flag(name)} must not be negative, not {value:g}")
    if options.label_smoothing is not None and options.label_smoothing > 1:
        raise InputError(f"--label-smoothing must be at most 1, not {options.label_smoothing:g}")
    for name in ("adversarial_epsilon", "adversarial_weight"):
        if getattr(options, name) is not None and options.adversarial is None:
            raise InputError(f"{_flag(name)} needs --adversarial fgm or --adversarial vat")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Rows:
    """The rows of one side of the split."""

    X: Matrix
    Y: Matrix


def split_rows(table: Table, options: FitOptions) -> tuple[Rows, Rows]:
    """Training and test rows: a random share if asked for, else the file's own split, else all for training."""
    assert table.Y is not None
    is_train = table.is_train if table.is_train is not None else np.ones(len(table.X), bool)
    if options.test_size is not None:
        if not 0 < options.test_size < 1:
            raise InputError(f"--test-size must be between 0 and 1, not {options.test_size:g}")
        held_out = np.random.default_rng(options.seed).permutation(len(table.X))
        is_train = np.ones(len(table.X), bool)
        is_train[held_out[: round(options.test_size * len(table.X))]] = False
    if not is_train.any():
        raise InputError(f"{options.data}: the split leaves no training row")
    return Rows(table.X[is_train], table.Y[is_train]), Rows(table.X[~is_train], table.Y[~is_train])


def scaling(path: Path, table: Table, X: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and standard deviation of the training rows; a constant column keeps its scale."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = X.mean(axis=0), X.std(axis=0)
    if not np.isfinite(scale).all():
        name = table.feature_names[int(np.argmin(np.isfinite(scale)))]
        raise InputError(f"{path}: the values of column {name!r} are too large to standardise")
    constant = np.ptp(X, axis=0) == 0  # their computed deviation may be a rounding error above 0
    return mean, np.where(constant | (scale == 0), 1.0, scale)


def _for_training(Y: Matrix) -> Matrix:
    """Labels as the estimator takes them: an unlabelled row is nan, which no one can take for a label."""
    return np.where(Y < 0, np.nan, Y) if (Y < 0).any() else Y


def _train(parameters: dict[str, Any], X: Any, Y: Any) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning

    from zlpr.models import MultilabelClassifier

    estimator = MultilabelClassifier(**parameters)
    with warnings.catch_warnings(record=True) as caught, noting_interrupts() as noted:
        warnings.simplefilter("always")
        # A number of epochs is a choice; only L-BFGS has an end of its own that it can miss.
        warnings.simplefilter("always" if estimator.solver == "lbfgs" else "ignore", ConvergenceWarning)
        try:
            estimator.fit(X, Y)
        except ValueError as error:  # what the estimator refuses, or training that diverged
            raise InputError(str(error).replace("learning_rate", "--learning-rate")) from None
    for message in () if noted else dict.fromkeys(str(warning.message) for warning in caught):
        say(message.replace("max_iter=", "--epochs "), kind="warning")
    return estimator, bool(noted)


def _print_report(
    options: FitOptions, estimator: Any, scores: list[dict[str, float]], seconds: float
) -> None:
    sides = dict(zip(("train", "test"), scores, strict=False))
    if options.report == "json":
        summary = {
            **{"train": None, "test": None, **sides},
            "seconds": seconds,
            "epochs": int(estimator.n_iter_),
            "backend": options.backend,
            "model": str(options.out),
        }
        print(json.dumps(summary, indent=2))
        return
    title = f"{options.data.name}: {options.loss} on {options.backend}, {_rounds(estimator)}"
    print_scores(title, sides, {"train": f"{seconds:.2f}"})
    print(f"model: {options.out}")


def _rounds(estimator: Any) -> str:
    unit = "L-BFGS iterations" if estimator.solver == "lbfgs" else "epochs"
    return f"{estimator.n_iter_} {unit}"
