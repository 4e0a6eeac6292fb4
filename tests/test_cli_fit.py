"""`zlpr fit` and `zlpr predict`: what is written, printed and kept after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from _data import real_data
from _libraries import Library

pytest.importorskip("typer", reason="the command line needs the cli extra")
from zlpr.cli import main
from zlpr.cli.model_file import load_model
from zlpr.cli.scores import TITLES

NAMES = ("red", "green", "blue")


def learnable(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) * [1, 100, 0.01, 0] + 5  # the last column is constant
    Y = ((X[:, :3] - 5) / [1, 100, 0.01] > 0.2).astype(np.uint8)
    return X, Y


@pytest.fixture
def data(tmp_path: Path) -> Path:
    X, Y = learnable()
    path = tmp_path / "data.npz"
    np.savez(path, X=X, Y=Y, is_train=np.arange(90) < 60, label_names=NAMES)
    return path


def fit_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["fit", *map(str, arguments), "--report", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_fit_writes_a_model_and_scores_both_sides(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    report = fit_json(capsys, data, "--out", out)
    assert set(report["train"]) == set(report["test"]) == set(TITLES)
    assert report["train"]["micro_f1"] > 0.95
    assert report["test"]["micro_f1"] > 0.85
    assert report["backend"] == "numpy"
    model = load_model(out)
    X, _ = learnable()
    assert_allclose(model.mean, X[:60].mean(axis=0))
    assert_allclose(model.scale, [*X[:60, :3].std(axis=0), 1.0])  # the constant column keeps its scale
    assert model.label_names == NAMES
    assert model.feature_names == ("0", "1", "2", "3")
    assert [layer["weight"].shape for layer in model.layers] == [(4, 3)]
    assert model.layers[0]["weight"].dtype == np.float64
    assert {entry.name for entry in tmp_path.iterdir()} == {"data.npz", "m.safetensors"}


def test_fit_prints_a_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(data), "--out", str(tmp_path / "m.safetensors")]) == 0
    out, err = capsys.readouterr()
    for word in ("train", "test", "micro-F1", "ranking loss", "seconds", "m.safetensors"):
        assert word in out
    assert err == ""


def test_fit_holds_out_a_share_when_asked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [
        fit_json(capsys, data, "--out", tmp_path / "m", "--test-size", "0.3", "--seed", seed)
        for seed in (1, 1, 2)
    ]
    assert reports[0]["test"] == reports[1]["test"] != reports[2]["test"]


def test_fit_without_a_split_trains_on_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, Y = learnable(30)
    np.savez(tmp_path / "all.npz", X=X, Y=Y)
    assert fit_json(capsys, tmp_path / "all.npz", "--out", tmp_path / "m")["test"] is None


@pytest.mark.parametrize("loss", ["zlpr", "sigmoid"])
def test_fit_hidden_layers_in_float32(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: str
) -> None:
    options = [
        "--hidden",
        "8,6",
        "--epochs",
        3,
        "--batch-size",
        16,
        "--learning-rate",
        0.01,
        "--dtype",
        "float32",
    ]
    report = fit_json(capsys, data, "--out", tmp_path / "m", "--loss", loss, "--alpha", 0.001, *options)
    assert report["epochs"] == 3
    model = load_model(tmp_path / "m")
    assert [layer["weight"].shape for layer in model.layers] == [(4, 8), (8, 6), (6, 3)]
    assert {layer["weight"].dtype for layer in model.layers} == {np.dtype("float32")}
    assert model.estimator["loss"] == loss
    assert model.estimator["hidden_layer_sizes"] == (8, 6)


def test_fit_takes_the_regularisers(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"noise": 0.1, "label_smoothing": 0.05, "gradient_penalty": 0.2, "adversarial": "fgm"}
    given |= {"adversarial_epsilon": 0.3, "adversarial_weight": 0.7}
    options = [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
    report = fit_json(capsys, data, "--out", tmp_path / "m", "--epochs", 3, *options)
    assert report["epochs"] == 3
    estimator = load_model(tmp_path / "m").estimator
    assert {name: estimator[name] for name in given} == given
    assert estimator["solver"] == "minibatch"  # a linear model, but L-BFGS cannot take these
    assert main(["predict", str(tmp_path / "m"), str(data), "--out", str(tmp_path / "p.csv")]) == 0


@pytest.mark.parametrize("mark", [-1, np.nan])
def test_fit_learns_from_rows_without_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mark: float
) -> None:
    X, Y = learnable()
    known = np.arange(90) % 3 == 0
    np.savez(
        tmp_path / "few.npz", X=X, Y=np.where(known[:, None], Y, float(mark)), is_train=np.arange(90) < 60
    )
    np.savez(tmp_path / "known.npz", X=X[known], Y=Y[known])
    fit = ["--epochs", 40, "--learning-rate", 0.1, "--adversarial", "vat", "--out", tmp_path / "m"]
    report = fit_json(capsys, tmp_path / "few.npz", *fit)
    assert_allclose(load_model(tmp_path / "m").mean, X[:60].mean(axis=0))  # of all training rows
    assert report["train"]["micro_f1"] > 0.7
    assert report["test"] is not None
    assert (
        main(["predict", str(tmp_path / "m"), str(tmp_path / "few.npz"), "--out", str(tmp_path / "p.csv")])
        == 0
    )
    of_few = capsys.readouterr().out.splitlines()[:-1]
    assert (
        main(["predict", str(tmp_path / "m"), str(tmp_path / "known.npz"), "--out", str(tmp_path / "p.csv")])
        == 0
    )
    of_known = capsys.readouterr().out.splitlines()[:-1]
    assert [line for line in of_few if "." in line][1:] == [line for line in of_known if "." in line][1:]
    assert main(["fit", str(tmp_path / "few.npz"), "--out", str(tmp_path / "m")]) == 2
    assert "40 unlabelled rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--noise", "-1"], "--noise must not be negative"),
        (["--label-smoothing", "2"], "--label-smoothing must be at most 1"),
        (["--adversarial-epsilon", "1"], "--adversarial-epsilon needs --adversarial"),
        (["--solver", "lbfgs", "--gradient-penalty", "1"], "--solver lbfgs cannot take --gradient-penalty"),
    ],
)
def test_fit_refuses_regularisers_it_cannot_use(
    data: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["fit", str(data), *options]) == 2
    assert message in capsys.readouterr().err


def test_predict_writes_labels_and_scores(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = fit_json(capsys, data, "--out", tmp_path / "m")
    assert (
        main(["predict", str(tmp_path / "m"), str(data), "--scores", "--out", str(tmp_path / "p.csv")]) == 0
    )
    assert "micro-F1" in capsys.readouterr().out
    assert (
        main(["predict", str(tmp_path / "m"), str(data), "--scores", "--out", str(tmp_path / "p.npz")]) == 0
    )
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == "red,green,blue,score:red,score:green,score:blue"
    table = np.loadtxt(tmp_path / "p.csv", delimiter=",", skiprows=1)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as found:
        assert_array_equal(found["Y"], table[:, :3])
        assert_array_equal(found["scores"], table[:, 3:])
        assert_array_equal(found["label_names"], NAMES)
    assert_array_equal(table[:, :3], table[:, 3:] > 0)
    accuracy = (table[60:, :3] == learnable()[1][60:]).all(axis=1).mean()
    assert accuracy == pytest.approx(report["test"]["subset_accuracy"])


def test_lbfgs_says_when_it_was_cut_short(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(data), "--out", str(tmp_path / "m"), "--epochs", "2"]) == 0
    assert "warning: Training ended at --epochs 2" in capsys.readouterr().err


def test_predict_needs_no_labels(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit_json(capsys, data, "--out", tmp_path / "m")
    np.savez(tmp_path / "new.npz", X=learnable(7, seed=1)[0])
    assert (
        main(["predict", str(tmp_path / "m"), str(tmp_path / "new.npz"), "--out", str(tmp_path / "p.csv")])
        == 0
    )
    assert "micro-F1" not in capsys.readouterr().out
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "red,green,blue"
    assert len(lines) == 8
    assert set("".join(lines[1:])) <= set("01,")


@pytest.mark.parametrize("hidden", ["", "6"])
@pytest.mark.library("torch", "cupy", "jax")
def test_every_library_gives_the_model_of_numpy(
    xp: Library, hidden: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--hidden", hidden, "--epochs", "10", "--batch-size", "20"]
    for backend in ("numpy", xp.name):
        fit_json(capsys, data, "--out", tmp_path / backend, "--backend", backend, *options)
    ours, theirs = load_model(tmp_path / "numpy"), load_model(tmp_path / xp.name)
    for layer, other in zip(ours.layers, theirs.layers, strict=True):
        assert other["weight"].dtype == np.float64
        assert_allclose(other["weight"], layer["weight"], rtol=0, atol=1e-9 * np.abs(layer["weight"]).max())
    out = tmp_path / "p.csv"
    assert main(["predict", str(tmp_path / "numpy"), str(data), "--backend", xp.name, "--out", str(out)]) == 0


def test_ctrl_c_keeps_a_usable_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, Y = learnable(3000)
    np.savez(tmp_path / "data.npz", X=X, Y=Y, label_names=NAMES)
    command = ["fit", "data.npz", "--hidden", "50", "--epochs", "1000000", "--out", "m.safetensors"]
    # The child says when it draws the batches of an epoch: by then it is training.
    code = (
        "import sys; from zlpr.cli import main; import zlpr.models._training as t\n"
        "batches = t.Batches.of\n"
        "def told(*args):\n    open('begun', 'w').close(); return batches(*args)\n"
        "t.Batches.of = told; sys.exit(main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert err.startswith("zlpr: interrupted: training stopped after ")
    assert err.count("\n") == 1
    assert "m.safetensors holds the model so far" in err
    model = tmp_path / "m.safetensors"
    assert main(["predict", str(model), str(tmp_path / "data.npz"), "--out", str(tmp_path / "p.csv")]) == 0


def test_ctrl_c_before_training_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zlpr.cli.fit.read_table", interrupted)
    assert main(["fit", str(data), "--out", str(tmp_path / "m")]) == 130
    assert capsys.readouterr().err == "zlpr: interrupted: stopped; no file is half written\n"
    assert not (tmp_path / "m").exists()


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("zlpr ")
    assert main([]) == 0
    said = capsys.readouterr().out
    for command in ("fit", "predict", "demo"):
        assert command in said


@pytest.mark.parametrize(
    ("name", "labels", "least"),
    [("emotions.csv.gz", "6", 0.6), ("yeast_train.svm", None, 0.55), ("flags.arff", None, 0.6)],
)
def test_fit_on_real_data(
    name: str, labels: str | None, least: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if labels is None else ["--labels", labels]
    report = fit_json(capsys, real_data(name), "--out", tmp_path / "m", "--test-size", 0.3, *options)
    assert report["test"]["micro_f1"] > least
