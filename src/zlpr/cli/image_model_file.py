"""A generative model on disk: safetensors with the parameters, and JSON for the images' shape and units beside them.

Like `zlpr.cli.model_file` it holds arrays and text only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from sklearn.exceptions import NotFittedError

import zlpr
from zlpr._array import Array, to_numpy
from zlpr.cli.errors import InputError
from zlpr.cli.files import write_whole
from zlpr.cli.image_sets import Scale
from zlpr.cli.model_file import read_tensors, require_version
from zlpr.models import EntropicAutoencoder, VariationalAutoencoder

Matrix: TypeAlias = np.ndarray[Any, Any]

MODELS: dict[str, Any] = {"eae": EntropicAutoencoder, "vae": VariationalAutoencoder}

_FORMAT = "zlpr.generate"
_FORMAT_VERSION = "1"


@dataclass(frozen=True)
class ImageModel:
    """A fitted autoencoder and the images it is for.

    Attributes
    ----------
    kind : {"eae", "vae"}
    estimator : EntropicAutoencoder or VariationalAutoencoder
        Fitted to rows of pixels between 0 and 1.
    shape : (height, width)
    scale : Scale
        The units of the images.
    """

    kind: str
    estimator: Any
    shape: tuple[int, int]
    scale: Scale


def save_image_model(path: Path, model: ImageModel) -> None:
    """Write a model file, whole or not at all."""
    from safetensors.numpy import save

    estimator = model.estimator
    constructor = {name: value for name, value in estimator.get_params().items() if name != "verbose"}
    metadata = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "zlpr_version": zlpr.__version__,
        "model": model.kind,
        "estimator": json.dumps(constructor),
        "shape": json.dumps(model.shape),
        "scale": json.dumps(asdict(model.scale)),
    }
    tensors = {
        name: np.ascontiguousarray(to_numpy(value)) for name, value in _flat(estimator.params_).items()
    }
    write_whole(path, save(tensors, metadata))


def load_image_model(path: Path, move: Callable[[Matrix], Array]) -> ImageModel:
    """Read a model file.

    Parameters
    ----------
    path : Path
    move : callable
        Takes a NumPy array to the library to compute with.

    Raises
    ------
    InputError
        If it is missing, damaged, of another program, of a newer format, or its arrays do not fit together.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise InputError(f"{path}: not a model that zlpr generate wrote")
    require_version(path, metadata, _FORMAT_VERSION)
    try:
        model = _assembled(metadata, {name: move(value) for name, value in tensors.items()})
        _require_working(model, tensors)
    except (
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        NotFittedError,
    ) as error:
        raise InputError(f"{path}: the model file is damaged ({error})") from None
    return model


def _assembled(metadata: Mapping[str, str], tensors: Mapping[str, Array]) -> ImageModel:
    constructor = json.loads(metadata["estimator"])
    constructor["hidden_layer_sizes"] = tuple(constructor["hidden_layer_sizes"])
    scale = Scale(**json.loads(metadata["scale"]))
    np.dtype(scale.dtype)
    height, width = json.loads(metadata["shape"])
    kind = metadata["model"]
    estimator = MODELS[kind].from_params(_nested(tensors), **constructor)
    return ImageModel(kind, estimator, (int(height), int(width)), scale)


def _require_working(model: ImageModel, tensors: Mapping[str, Matrix]) -> None:
    """Raise ValueError unless the numbers are finite, and a code becomes an image and an image a code."""
    if not all(np.isfinite(value).all() for value in tensors.values()):
        raise ValueError("its numbers are not finite")
    pixels, latent = model.shape[0] * model.shape[1], model.estimator.latent_dim
    image = model.estimator.sample(1, random_state=0)
    if tuple(image.shape) != (1, pixels):
        raise ValueError(f"it makes {image.shape[1]} pixels, expected {model.shape[0]} x {model.shape[1]}")
    code = model.estimator.transform(image)
    if tuple(code.shape) != (1, latent):
        raise ValueError(f"its codes have {code.shape[1]} numbers, expected {latent}")


def _flat(params: Mapping[str, Any]) -> dict[str, Array]:
    """The parameters by names such as ``encoder.0.weight`` and ``codes.mean``."""
    flat: dict[str, Array] = {}
    for part, content in params.items():
        layers = (
            {part: content}
            if isinstance(content, Mapping)
            else {f"{part}.{i}": c for i, c in enumerate(content)}
        )
        flat |= {
            f"{layer}.{name}": value for layer, values in layers.items() for name, value in values.items()
        }
    return flat


def _nested(flat: Mapping[str, Array]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    params: dict[str, Any] = {}
    for path, value in flat.items():
        part, *place, name = path.split(".")
        content = params.setdefault(part, {})
        (content.setdefault(int(place[0]), {}) if place else content)[name] = value
    return {
        part: tuple(content[i] for i in range(len(content)))
        if all(isinstance(i, int) for i in content)
        else content
        for part, content in params.items()
    }
