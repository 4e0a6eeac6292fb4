"""A model on disk: safetensors with the layers' parameters and the features' scaling, and JSON beside them.

The file holds arrays and text only, so that reading one can run nobody's code, and any library can read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import zlpr
from zlpr.cli.errors import InputError
from zlpr.cli.files import write_whole

Matrix: TypeAlias = np.ndarray[Any, Any]

_FORMAT = "zlpr.MultilabelClassifier"
_FORMAT_VERSION = "1"


@dataclass(frozen=True)
class Model:
    """Everything `zlpr predict` needs.

    Attributes
    ----------
    layers : sequence of dict
        One ``{"weight": (d_in, d_out), "bias": (d_out,)}`` a dense layer, in NumPy.
    mean, scale : (d,) arrays
        Features are standardised as ``(X - mean) / scale``.
    feature_names, label_names : tuple of str
        The columns the model was trained on.
    estimator : dict
        The constructor's parameters of the estimator.
    """

    layers: Sequence[Mapping[str, Matrix]]
    mean: Matrix
    scale: Matrix
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    estimator: Mapping[str, Any]

    def standardise(self, X: Matrix) -> Matrix:
        """The features as the layers expect them, in the layers' dtype."""
        return ((X - self.mean) / self.scale).astype(self.layers[0]["weight"].dtype)


def save_model(path: Path, model: Model) -> None:
    """Write a model file, whole or not at all."""
    from safetensors.numpy import save

    tensors = {"feature_mean": model.mean, "feature_scale": model.scale}
    for number, layer in enumerate(model.layers):
        tensors |= {f"layers.{number}.{name}": np.ascontiguousarray(value) for name, value in layer.items()}
    metadata = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "zlpr_version": zlpr.__version__,
        "feature_names": json.dumps(model.feature_names),
        "label_names": json.dumps(model.label_names),
        "estimator": json.dumps(model.estimator),
    }
    write_whole(path, save(tensors, metadata))


def load_model(path: Path) -> Model:
    """Read a model file.

    Raises
    ------
    InputError
        If it is missing, damaged, of another program, of a newer format, or its arrays do not fit together.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{path}: not a model that zlpr fit wrote")
    require_version(path, metadata, _FORMAT_VERSION)
    try:
        model = _assembled(metadata, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: the model file is damaged ({error})") from None
    _require_fitting_shapes(path, model)
    return model


def require_version(path: Path, metadata: Mapping[str, str], version: str) -> None:
    """Raise InputError unless a file has this version of its format."""
    if metadata.get("format_version") != version:
        writer = metadata.get("zlpr_version", "another version")
        raise InputError(
            f"{path}: written by zlpr {writer}, in a format that zlpr {zlpr.__version__} does not know"
        )


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Matrix]]:
    """The metadata and the arrays of a safetensors file, or InputError."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"cannot read {path}: {'it is a folder' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a model file, or damaged ({error})") from None


def _assembled(metadata: Mapping[str, str], tensors: Mapping[str, Matrix]) -> Model:
    count = sum(name.endswith(".weight") for name in tensors)
    estimator = json.loads(metadata["estimator"])
    estimator["hidden_layer_sizes"] = tuple(estimator["hidden_layer_sizes"])
    return Model(
        layers=tuple(
            {part: tensors[f"layers.{number}.{part}"] for part in ("weight", "bias")}
            for number in range(count)
        ),
        mean=tensors["feature_mean"],
        scale=tensors["feature_scale"],
        feature_names=tuple(json.loads(metadata["feature_names"])),
        label_names=tuple(json.loads(metadata["label_names"])),
        estimator=estimator,
    )


def _require_fitting_shapes(path: Path, model: Model) -> None:
    sizes = [len(model.feature_names), *model.estimator["hidden_layer_sizes"], len(model.label_names)]
    expected = [(d_in, d_out) for d_in, d_out in pairwise(sizes)]
    weights = [layer["weight"].shape for layer in model.layers]
    biases = [layer["bias"].shape for layer in model.layers]
    scaling = {model.mean.shape, model.scale.shape}
    if weights != expected or biases != [(d_out,) for _, d_out in expected] or scaling != {(sizes[0],)}:
        raise InputError(
            f"{path}: the model file is damaged (layers of shapes {weights}, expected {expected})"
        )
