"""`zlpr predict`: a model file and a data file in, labels out."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from zlpr._array import to_numpy
from zlpr.cli.backends import converter, require_backend
from zlpr.cli.errors import InputError
from zlpr.cli.files import require_writable, write_whole
from zlpr.cli.model_file import Model, load_model
from zlpr.cli.readers import read_features
from zlpr.cli.scores import evaluate
from zlpr.cli.tables import print_scores

Matrix: TypeAlias = np.ndarray[Any, Any]


def predict_file(model_path: Path, data: Path, out: Path, with_scores: bool, backend: str) -> None:
    """Predict the labels of a data file and write them.

    Parameters
    ----------
    model_path, data, out : Path
        The model, the rows to predict, and the ``.csv`` or ``.npz`` file to write.
    with_scores : bool
        Whether the scores are written too.
    backend : str
        The array library to compute with.

    Raises
    ------
    InputError
        For anything the user can correct; then no file has been touched.
    """
    require_backend(backend)
    if out.suffix.lower() not in (".csv", ".npz"):
        raise InputError(f"--out must end in .csv or .npz, not {out.name!r}")
    require_writable(out, data, model_path)
    model = load_model(model_path)
    table = read_features(data, model.feature_names, model.label_names)
    labels, scores = _predict(model_path, model, table.X, backend)
    content = _npz if out.suffix.lower() == ".npz" else _csv
    write_whole(out, content(model.label_names, labels, scores if with_scores else None))
    if table.Y is not None and (table.Y >= 0).any():
        measured = evaluate(
            scores, table.Y, model.estimator["loss"], float(model.estimator.get("threshold", 0.0))
        )
        print_scores(f"{data.name}: {model_path.name} on {backend}", {"all": measured}, {})
    print(f"{out}: {len(labels)} rows, {len(model.label_names)} labels")


def _predict(path: Path, model: Model, X: Matrix, backend: str) -> tuple[Matrix, Matrix]:
    from zlpr.models import MultilabelClassifier

    move = converter(backend)
    layers = tuple({name: move(value) for name, value in layer.items()} for layer in model.layers)
    try:
        estimator = MultilabelClassifier.from_params(layers, **model.estimator)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: the model file is damaged ({error})") from None
    rows = move(model.standardise(X))
    return to_numpy(estimator.predict(rows)).astype(np.uint8), to_numpy(estimator.decision_function(rows))


def _csv(names: tuple[str, ...], labels: Matrix, scores: Matrix | None) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"score:{name}" for name in names)] if scores is not None else names)
    for row, marks in enumerate(labels.tolist()):
        writer.writerow(marks if scores is None else [*marks, *map(repr, scores[row].tolist())])
    return text.getvalue().encode()


def _npz(names: tuple[str, ...], labels: Matrix, scores: Matrix | None) -> bytes:
    arrays = {"Y": labels, "label_names": np.array(names)}
    if scores is not None:
        arrays["scores"] = scores
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()
