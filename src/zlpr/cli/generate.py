"""`zlpr generate`: train an autoencoder on images, draw what it makes of them and what it makes up."""

from __future__ import annotations

import io
import math
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.table import Table

from zlpr._array import Array, to_numpy
from zlpr.cli.backends import converter, require_backend
from zlpr.cli.errors import InputError, say
from zlpr.cli.files import require_writable, write_whole
from zlpr.cli.fit import hidden_sizes
from zlpr.cli.image_grids import interpolation_grid, reconstruction_grid, sample_grid
from zlpr.cli.image_model_file import MODELS, ImageModel, load_image_model, save_image_model
from zlpr.cli.image_sets import DIGITS, ImageSet, image_shape, read_images
from zlpr.cli.interrupts import noting_interrupts
from zlpr.cli.tables import console

Matrix: TypeAlias = np.ndarray[Any, Any]

MODEL_FILE = "model.safetensors"
_TITLES = {"eae": "entropic autoencoder", "vae": "variational autoencoder"}
_SAMPLES, _PAIRS, _WAYS, _STEPS = 400, 32, 8, 10  # at most in a picture


@dataclass(frozen=True)
class GenerateOptions:
    """The options of the command; None where the user left them open."""

    model: str | None = None
    data: str | None = None
    load: Path | None = None
    output_dir: Path = Path("zlpr-generate")
    array: str | None = None
    shape: str | None = None
    latent_dim: int | None = None
    hidden: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    entropy_weight: float | None = None
    kl_weight: float | None = None
    likelihood: str | None = None
    dtype: str | None = None
    test_size: float | None = None
    samples: int = 64
    seed: int = 0
    backend: str = "numpy"
    quiet: bool = False


_OF_TRAINING = (
    *("model", "latent_dim", "hidden", "epochs", "batch_size", "learning_rate"),
    *("entropy_weight", "kl_weight", "likelihood", "dtype", "test_size"),
)


def generate_images(options: GenerateOptions) -> bool:
    """Train or load a model, and write its pictures and samples.

    Parameters
    ----------
    options : GenerateOptions
        What the user asked for.

    Returns
    -------
    bool
        Whether Ctrl-C cut the training short; everything is written all the same.

    Raises
    ------
    InputError
        For anything the user can correct; then no file has been written.
    """
    require_backend(options.backend)
    _require_consistent(options)
    shape = None if options.shape is None else image_shape(options.shape)
    if options.load is not None:
        model = load_image_model(options.load, converter(options.backend))
        images = None if options.data is None else _fitting(options, model, shape)
        _make_folder(options)
        _write_pictures(
            options, model, None if images is None else model.scale.to_unit(images.X, _dtype(model))
        )
        return False
    kind, parameters = options.model or "eae", estimator_parameters(options)
    images = read_images(options.data or DIGITS, options.array, shape)
    train, test = _split(options, images)
    _make_folder(options)
    started = time.perf_counter()
    estimator, interrupted = _train(kind, parameters, converter(options.backend)(train))
    seconds = time.perf_counter() - started
    model = ImageModel(kind, estimator, images.shape, images.scale)
    path = options.output_dir / MODEL_FILE
    save_image_model(path, model)
    _print_report(options, model, {"train": train, "held out": test}, seconds)
    print(f"model: {path}")
    _write_pictures(options, model, test if len(test) > 1 else train)
    if interrupted:
        say(
            f"training stopped after {estimator.n_iter_} epochs; {path} holds the model so far", "interrupted"
        )
    return interrupted


def _require_consistent(options: GenerateOptions) -> None:
    if options.load is not None:
        given = [name for name in _OF_TRAINING if getattr(options, name) is not None]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-')} is for training, and --load takes a trained model"
            )
        if options.data is None and (options.array is not None or options.shape is not None):
            raise InputError("--array and --shape go with --data")
    other = {"eae": ("kl_weight", "likelihood"), "vae": ("entropy_weight",)}[options.model or "eae"]
    for name in other:
        if getattr(options, name) is not None:
            right = "vae" if options.model != "vae" else "eae"
            raise InputError(f"--{name.replace('_', '-')} goes with --model {right}")


def estimator_parameters(options: GenerateOptions) -> dict[str, Any]:
    """The estimator's parameters the options ask for; hidden layers and weights left open are its default."""
    for name in ("learning_rate", "entropy_weight", "kl_weight"):
        value = getattr(options, name)
        if value is not None and not (0 <= value < np.inf and (value > 0 or name != "learning_rate")):
            bound = "positive" if name == "learning_rate" else "finite and not negative"
            raise InputError(f"--{name.replace('_', '-')} must be {bound}, not {value:g}")
    given = {
        "hidden_layer_sizes": None if options.hidden is None else hidden_sizes(options.hidden),
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "entropy_weight": options.entropy_weight,
        "kl_weight": options.kl_weight,
        "likelihood": options.likelihood,
    }
    epochs = 100 if options.epochs is None else options.epochs
    return {
        "latent_dim": 8 if options.latent_dim is None else options.latent_dim,
        "output_activation": "identity" if options.likelihood == "bernoulli" else "sigmoid",
        "batch_size": 100,
        "learning_rate": 3e-3,
        "max_iter": epochs,
        "n_iter_no_change": epochs,  # as many epochs as asked for
        "random_state": options.seed,
        "verbose": int(not options.quiet and sys.stderr.isatty()),
    } | {name: value for name, value in given.items() if value is not None}


def _split(options: GenerateOptions, images: ImageSet) -> tuple[Matrix, Matrix]:
    """Images to train on and images held out, between 0 and 1: a random share if asked for, else the file's split."""
    share = 0.1 if options.test_size is None else options.test_size
    if not 0 <= share < 1:
        raise InputError(f"--test-size must be at least 0 and below 1, not {share:g}")
    is_train = images.is_train
    if is_train is None or options.test_size is not None:
        order = np.random.default_rng(options.seed).permutation(len(images.X))
        is_train = np.ones(len(order), bool)
        is_train[order[: round(share * len(order))]] = False
    if not is_train.any():
        raise InputError(f"{options.data}: the split leaves no image to train on")
    unit = images.scale.to_unit(images.X, options.dtype or "float32")
    return unit[is_train], unit[~is_train]


def _train(kind: str, parameters: dict[str, Any], X: Array) -> tuple[Any, bool]:
    from sklearn.exceptions import ConvergenceWarning

    estimator = MODELS[kind](**parameters)
    with warnings.catch_warnings(record=True) as caught, noting_interrupts() as noted:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)  # a number of epochs is a choice
        try:
            estimator.fit(X)
            if not math.isfinite(estimator.score(X)):
                raise ValueError("training diverged: its score is not finite; try a smaller learning_rate")
        except ValueError as error:  # what the estimator refuses, or training that diverged
            raise InputError(_in_options(str(error))) from None
    for message in () if noted else dict.fromkeys(str(warning.message) for warning in caught):
        say(_in_options(message), kind="warning")
    return estimator, bool(noted)


def _in_options(message: str) -> str:
    for name in ("learning_rate", "batch_size", "latent_dim"):
        message = message.replace(name, f"--{name.replace('_', '-')}")
    return message


def _fitting(options: GenerateOptions, model: ImageModel, shape: tuple[int, int] | None) -> ImageSet:
    images, scale = read_images(str(options.data), options.array, shape), model.scale
    if images.shape != model.shape:
        expected, found = ("x".join(map(str, sides)) for sides in (model.shape, images.shape))
        raise InputError(
            f"{options.data}: the images are {found}, but those of {options.load} are {expected}"
        )
    span = scale.high - scale.low
    if images.scale.low < scale.low - span or images.scale.high > scale.high + span:
        raise InputError(
            f"{options.data}: pixels go from {images.scale.low:g} to {images.scale.high:g}, but those of "
            f"{options.load} from {scale.low:g} to {scale.high:g}"
        )
    return images


def _dtype(model: ImageModel) -> str:
    return str(to_numpy(model.estimator.params_["decoder"][0]["weight"]).dtype)


def _make_folder(options: GenerateOptions) -> None:
    folder = options.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    read = [Path(options.data)] if options.data not in (None, DIGITS) else []
    for name in (MODEL_FILE, "samples.npz", "samples.png", "reconstructions.png", "interpolations.png"):
        if name != MODEL_FILE or options.load is None:
            require_writable(folder / name, *read)


def _write_pictures(options: GenerateOptions, model: ImageModel, X: Matrix | None) -> None:
    """Samples in any case; reconstructions of images where there are any, and ways between their codes."""
    title = _TITLES[model.kind]
    sampled = to_numpy(model.estimator.sample(options.samples, random_state=options.seed))
    pictures = {"samples": sample_grid(sampled[:_SAMPLES], model.shape, f"Samples, {title}")}
    if X is not None:
        shown = X[:_PAIRS]
        pictures["reconstructions"] = reconstruction_grid(
            shown,
            _decoded(options, model, _codes(options, model, shown)),
            model.shape,
            f"Reconstructions, {title}",
        )
    pictures["interpolations"] = _interpolations(options, model, X, title)
    written = io.BytesIO()
    np.savez_compressed(written, X=model.scale.back(sampled).reshape(-1, *model.shape))
    write_whole(options.output_dir / "samples.npz", written.getvalue())
    print(f"samples: {options.output_dir / 'samples.npz'}")
    for name, content in pictures.items():
        path = options.output_dir / f"{name}.png"
        write_whole(path, content)
        print(f"picture: {path}")


def _interpolations(options: GenerateOptions, model: ImageModel, X: Matrix | None, title: str) -> bytes:
    """Straight ways between codes: of two images, which stand at both ends, or else of two draws."""
    share = np.linspace(0.0, 1.0, _STEPS)[:, None]
    if X is None or len(X) < 2:
        drawn = np.random.default_rng(options.seed).standard_normal((2 * _WAYS, model.estimator.latent_dim))
        codes, ends = drawn.astype(_dtype(model)), None
    else:
        ends = X[: 2 * min(_WAYS, len(X) // 2)]
        codes = _codes(options, model, ends)
    lines = []
    for first in range(0, len(codes), 2):
        way = ((1 - share) * codes[first] + share * codes[first + 1]).astype(codes.dtype)
        steps = _decoded(options, model, way)
        lines.append(steps if ends is None else np.concatenate([ends[[first]], steps, ends[[first + 1]]]))
    between = "codes drawn from N(0, I)" if ends is None else "the codes of the images at both ends"
    return interpolation_grid(
        lines, model.shape, f"Interpolations, {title}", f"decoded at equal steps between {between}"
    )


def _codes(options: GenerateOptions, model: ImageModel, X: Matrix) -> Matrix:
    return to_numpy(model.estimator.transform(converter(options.backend)(X)))


def _decoded(options: GenerateOptions, model: ImageModel, codes: Matrix) -> Matrix:
    return to_numpy(model.estimator.inverse_transform(converter(options.backend)(codes)))


def _print_report(
    options: GenerateOptions, model: ImageModel, sides: dict[str, Matrix], seconds: float
) -> None:
    estimator = model.estimator
    table = Table(
        title=f"{options.data or DIGITS}: {_TITLES[model.kind]} on {options.backend}, {estimator.n_iter_} epochs",
        title_justify="left",
    )
    table.add_column("images")
    for name in ("number", "squared error of an image", "root mean square of a pixel", "seconds"):
        table.add_column(name, justify="right")
    span = model.scale.high - model.scale.low
    for name, X in sides.items():
        if len(X):
            error = float(((_decoded(options, model, _codes(options, model, X)) - X) ** 2).sum(axis=1).mean())
            of_pixel = span * (error / X.shape[1]) ** 0.5
            cells = [
                str(len(X)),
                f"{error:.4f}",
                f"{of_pixel:.4g}",
                f"{seconds:.1f}" if name == "train" else "",
            ]
            table.add_row(name, *cells)
    console().print(table)
