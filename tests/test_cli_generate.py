"""`zlpr generate`: what is read, written, printed, kept in the model file, and refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from _libraries import Library

pytest.importorskip("typer", reason="the command line needs the cli extra")
from matplotlib.image import imread

from zlpr.cli import main
from zlpr.cli.errors import InputError
from zlpr.cli.generate import GenerateOptions, estimator_parameters
from zlpr.cli.image_grids import interpolation_grid, reconstruction_grid, sample_grid
from zlpr.cli.image_model_file import load_image_model
from zlpr.cli.image_sets import Scale, image_shape, read_images

PNG = b"\x89PNG\r\n\x1a\n"
SMALL = [
    "--hidden",
    "6",
    "--latent-dim",
    "2",
    "--epochs",
    "2",
    "--batch-size",
    "20",
    "--samples",
    "5",
    "--quiet",
]
WRITTEN = {"model.safetensors", "samples.npz", "samples.png", "reconstructions.png", "interpolations.png"}


def bars(n: int = 40, shape: tuple[int, int] = (3, 5), low: float = 0, high: float = 255) -> np.ndarray:
    """Images with one bright column each and noise."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.3, (n, *shape))
    images[np.arange(n), :, rng.integers(shape[1], size=n)] = 1.0
    images[0, 0, 0] = 0.0
    return low + (high - low) * images


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "bars.npz"
    np.savez(path, images=bars().astype(np.uint8), is_train=np.arange(40) < 30)
    return path


def generate(*arguments: object) -> int:
    return main(["generate", *map(str, arguments)])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that an error is."""
    assert generate(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("zlpr: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    "model",
    [
        ["eae", "--entropy-weight", "0.1"],
        ["vae", "--kl-weight", "0.5"],
        ["vae", "--likelihood", "bernoulli"],
    ],
    ids=" ".join,
)
def test_trains_draws_and_writes_a_model_that_samples_alike(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: list[str]
) -> None:
    first, again = tmp_path / "deep" / "first", tmp_path / "again"
    assert generate("--model", *model, "--data", data, "--output-dir", first, "--seed", 3, *SMALL) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in (
        "train",
        "30",
        "held out",
        "10",
        "squared error",
        "2 epochs",
        "samples.npz",
        "model.safetensors",
    ):
        assert word in out
    assert {path.name for path in first.iterdir()} == WRITTEN
    assert all(path.read_bytes().startswith(PNG) for path in first.glob("*.png"))
    assert generate("--load", first / "model.safetensors", "--out", again, "--samples", 5, "--seed", 3) == 0
    assert {path.name for path in again.iterdir()} == WRITTEN - {"model.safetensors", "reconstructions.png"}
    samples = [np.load(folder / "samples.npz")["X"] for folder in (first, again)]
    assert samples[0].shape == (5, 3, 5)
    assert samples[0].dtype == np.uint8
    assert_array_equal(*samples)


def test_reconstructs_the_images_held_out(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def noted(*arguments: object) -> bytes:
        drawn.append(arguments)
        return reconstruction_grid(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("zlpr.cli.generate.reconstruction_grid", noted)
    assert generate("--data", data, "--out", tmp_path, *SMALL) == 0
    ((originals, restored, shape, _),) = drawn
    unit = bars().astype(np.uint8).reshape(40, -1) / 255
    assert_allclose(originals, unit[30:], atol=1e-6)  # the file's own split
    model = load_image_model(tmp_path / "model.safetensors", np.asarray).estimator
    assert_allclose(restored, model.inverse_transform(model.transform(originals)))
    assert shape == (3, 5)
    rows = {
        line.split("│")[1].strip(): line.split("│")
        for line in capsys.readouterr().out.splitlines()
        if "│" in line
    }
    assert rows["train"][2].strip() == "30"
    assert float(rows["held out"][3]) == pytest.approx(-model.score(originals), abs=1e-4)


def test_model_file_keeps_the_estimator(data: Path, tmp_path: Path) -> None:
    assert generate("--model", "vae", "--data", data, "--out", tmp_path, *SMALL, "--dtype", "float64") == 0
    model = load_image_model(tmp_path / "model.safetensors", np.asarray)
    assert (model.kind, model.shape, model.scale) == ("vae", (3, 5), Scale(0.0, 255.0, "uint8"))
    estimator = model.estimator
    assert estimator.hidden_layer_sizes == (6,)
    assert estimator.params_["encoder"][1]["weight"].shape == (6, 4)  # two means, two log-variances
    assert estimator.params_["decoder"][0]["weight"].dtype == np.float64
    assert estimator.noise_variance_ > 0
    X = model.scale.to_unit(read_images(str(data)).X, "float64")
    restored = estimator.inverse_transform(estimator.transform(X))
    assert restored.shape == X.shape
    assert 0 <= restored.min() <= restored.max() <= 1


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(0, 255, np.uint8), (0, 16, np.int64), (-3.0, 5.0, np.float32)]
)
def test_samples_have_the_units_of_the_data(tmp_path: Path, low: float, high: float, dtype: type) -> None:
    images = bars(low=low, high=high).astype(dtype)
    np.savez(tmp_path / "flat.npz", X=images.reshape(40, 15))
    # A large rate drives the outputs into the corners of the sigmoid: all of the range is used.
    options = [*SMALL[:4], "--epochs", "40", "--learning-rate", "0.05", "--quiet", "--shape", "3x5"]
    assert generate("--data", tmp_path / "flat.npz", "--out", tmp_path, "--batch-size", 20, *options) == 0
    samples = np.load(tmp_path / "samples.npz")["X"]
    assert samples.shape == (64, 3, 5)
    assert samples.dtype == dtype
    assert low <= samples.min() < low + 0.3 * (high - low)
    assert high - 0.3 * (high - low) < samples.max() <= high


def test_digits_by_default(tmp_path: Path) -> None:
    assert generate("--out", tmp_path, *SMALL, "--epochs", 1) == 0
    assert np.load(tmp_path / "samples.npz")["X"].shape == (5, 8, 8)
    assert load_image_model(tmp_path / "model.safetensors", np.asarray).scale == Scale(0.0, 16.0, "uint8")


def test_a_single_image_leaves_the_ways_between_draws(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", X=bars(1))
    assert generate("--model", "vae", "--data", tmp_path / "one.npz", "--out", tmp_path, *SMALL) == 0
    assert {path.name for path in tmp_path.iterdir()} >= WRITTEN


def test_load_with_data_reconstructs_it(data: Path, tmp_path: Path) -> None:
    assert generate("--data", data, "--out", tmp_path, *SMALL) == 0
    folder = tmp_path / "more"
    assert generate("--load", tmp_path / "model.safetensors", "--data", data, "--out", folder) == 0
    assert {path.name for path in folder.iterdir()} == WRITTEN - {"model.safetensors"}


@pytest.mark.library("torch", "cupy", "jax")
def test_trains_on_the_library_asked_for(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], xp: Library
) -> None:
    sampled = []
    for backend in ("numpy", xp.name):
        options = ["--dtype", "float64", "--backend", backend]
        assert generate("--data", data, "--out", tmp_path, *SMALL, *options) == 0
        sampled.append(np.load(tmp_path / "samples.npz")["X"].astype(float))
    assert_allclose(*sampled, atol=1)  # one grey level, where rounding falls on the other side
    assert f"on {xp.name}" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_learnt(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zlpr.models._training import Descent

    real, calls = Descent.epoch, []

    def interrupted(self: Descent, arrays: tuple) -> float:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), 2)
        return real(self, arrays)

    monkeypatch.setattr(Descent, "epoch", interrupted)
    assert generate("--data", data, "--out", tmp_path, *SMALL, "--epochs", 9) == 130
    out, err = capsys.readouterr()
    assert "2 epochs" in out
    assert err.startswith("zlpr: interrupted: training stopped after 2 epochs")
    assert {path.name for path in tmp_path.iterdir()} >= WRITTEN


def test_options_of_one_model_are_refused_for_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--kl-weight goes with --model vae" in refusal(capsys, "--kl-weight", 1)
    assert "--entropy-weight goes with --model eae" in refusal(
        capsys, "--model", "vae", "--entropy-weight", 1
    )
    assert "--latent-dim is for training" in refusal(capsys, "--load", "m", "--latent-dim", 3)
    assert "--array and --shape go with --data" in refusal(capsys, "--load", "m", "--array", "X")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--entropy-weight", "-1"], "--entropy-weight must be finite and not negative, not -1"),
        (["--learning-rate", "0"], "--learning-rate must be positive, not 0"),
        (["--hidden", "a"], "--hidden must be sizes"),
        (["--shape", "8"], "--shape must be height x width, such as 28x28, not '8'"),
        (["--shape", "8x8"], "--array and --shape are for a .npz file"),
        (["--test-size", "1"], "--test-size must be at least 0 and below 1, not 1"),
        (["--data", "images.csv"], "--data must be digits or a .npz file, not 'images.csv'"),
        (["--data", "nowhere.npz"], "nowhere.npz: no such file"),
        (
            ["--batch-size", "2", "--epochs", "1"],
            "a batch must have more than k=3 samples, but --batch-size=2",
        ),
        (
            ["--learning-rate", "1e30", "--epochs", "1"],
            "training diverged: codes are not finite; try a smaller --learning",
        ),
        (
            ["--model", "vae", "--learning-rate", "1e30", "--epochs", "1", "--batch-size", "2000"],
            "training diverged: its score",
        ),
        (["--load", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert words in refusal(capsys, "--quiet", "--out", tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": np.eye(4), "b": np.eye(4)}, [], "which array holds the images? Give --array with one of a, b"),
        ({}, [], "bad.npz: the file holds no array"),
        ({"X": np.eye(4)}, ["--array", "Z"], "has no array 'Z'; found X"),
        ({"X": np.array([["a"]])}, [], "X must hold numbers, but its dtype is <U1"),
        ({"X": np.zeros((2, 3, 4, 5))}, [], "(images, height, width) or (images, pixels), not (2, 3, 4, 5)"),
        ({"X": np.eye(6)}, [], "the 6 pixels of X make no square; give --shape HEIGHTxWIDTH"),
        ({"X": np.eye(6)}, ["--shape", "2x4"], "--shape 2x4 takes 8 pixels, but X has 6"),
        ({"X": np.eye(4)[:, None] + 0}, ["--shape", "2x2"], "X holds images of 1x4, which --shape must be too"),
        ({"X": np.full((3, 4), 7)}, [], "every pixel of X is 7; there is nothing to learn"),
        ({"X": 1.5e308 * (2 * np.eye(4) - 1)}, [], "the pixels of X go from -1.5e+308 to 1.5e+308"),
        ({"X": [[0, 1, 2, 3.0], [0, 1, np.nan, 3]]}, [], "X must be finite, but image 2 holds nan or infinity"),
        ({"X": np.eye(4), "is_train": np.zeros(4, bool)}, [], "the split leaves no image to train on"),
        ({"X": np.eye(4), "is_train": np.zeros(3, bool)}, [], "is_train must be 4 booleans"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_data_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict, options: list[str], words: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    folder = tmp_path / "out"
    assert words in refusal(capsys, "--data", tmp_path / "bad.npz", "--out", folder, *options)
    assert not folder.exists()


def test_images_that_are_not_the_models_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--data", data, "--out", tmp_path, *SMALL) == 0
    capsys.readouterr()
    model = tmp_path / "model.safetensors"
    np.savez(tmp_path / "large.npz", X=bars(high=2000.0))
    np.savez(tmp_path / "turned.npz", X=bars(shape=(5, 3)))
    for name, words in (
        ("large.npz", "pixels go from 0 to 2000"),
        ("turned.npz", f"the images are 5x3, but those of {model} are 3x5"),
    ):
        assert words in refusal(capsys, "--load", model, "--data", tmp_path / name, "--out", tmp_path / "out")


def test_damaged_and_foreign_model_files_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    assert generate("--data", data, "--out", tmp_path, *SMALL) == 0
    capsys.readouterr()
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def found(changed: dict, **other: str) -> str:
        save_file(changed, path, metadata | other)
        return refusal(capsys, "--load", path, "--out", tmp_path / "out")

    assert "not a model that zlpr generate wrote" in found(tensors, format="zlpr.MultilabelClassifier")
    assert "in a format that zlpr" in found(tensors, format_version="99")
    short = {name: value for name, value in tensors.items() if name != "decoder.0.bias"}
    wide = tensors | {
        "decoder.1.weight": np.zeros((6, 16), np.float32),
        "decoder.1.bias": np.zeros(16, np.float32),
    }
    unknown = json.dumps(json.loads(metadata["estimator"]) | {"depth": 3})
    for changed, other in (
        (short, {}),
        (wide, {}),
        (tensors | {"codes.mean": np.full(2, np.nan, np.float32)}, {}),
        (tensors, {"estimator": unknown}),
        (tensors, {"model": "gan"}),
        (tensors, {"shape": "[4, 4]"}),
    ):
        assert "the model file is damaged" in found(changed, **other)
    path.write_bytes(b"no model")
    assert "not a model file, or damaged" in refusal(capsys, "--load", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_data_are_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "samples.npz", X=bars())
    assert "is the file that is read" in refusal(
        capsys, "--data", tmp_path / "samples.npz", "--out", tmp_path, *SMALL
    )


def test_scale_goes_there_and_back() -> None:
    scale = Scale(-2.0, 5.0, "int16")
    values = np.arange(-2, 6, dtype=np.int16)
    assert_allclose(scale.to_unit(values, "float64"), (values + 2) / 7)
    assert_array_equal(scale.back(scale.to_unit(values, "float32")), values)
    assert_array_equal(scale.back(np.array([-1.0, 0.0, 0.9 / 7, 2.0])), [-2, -2, -1, 5])


def test_pictures_show_every_image_at_its_grey_level(tmp_path: Path) -> None:
    images = np.linspace(0.0, 0.75, 4)[:, None] * np.ones(4)
    pictures = {
        "pairs": (reconstruction_grid(images, images[::-1], (2, 2), "Pairs"), 2),
        "samples": (sample_grid(images, (2, 2), "Samples"), 1),
        "ways": (interpolation_grid([images] * 3, (2, 2), "Ways", "note"), 3),
    }
    for name, (content, times) in pictures.items():
        (tmp_path / name).write_bytes(content)
        grey = imread(tmp_path / name, format="png")[:, :, 0]
        areas = [int((np.abs(grey - level) < 0.01).sum()) for level in (0.0, 0.25, 0.5, 0.75)]
        assert min(areas) > times * 70**2  # an image is 78 dots wide or more
        assert max(areas) < 1.1 * min(areas)


def test_defaults_and_what_is_asked_for() -> None:
    parameters = estimator_parameters(
        GenerateOptions(model="vae", likelihood="bernoulli", kl_weight=2.0, epochs=7)
    )
    assert parameters["output_activation"] == "identity"
    assert parameters["kl_weight"] == 2.0
    assert parameters["max_iter"] == parameters["n_iter_no_change"] == 7
    assert "entropy_weight" not in parameters
    assert estimator_parameters(GenerateOptions())["output_activation"] == "sigmoid"
    assert image_shape(" 2 x 30") == (2, 30)
    with pytest.raises(InputError, match="--shape"):
        image_shape("0x3")
