"""`zlpr demo`: the task, the table and the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the cli extra")
from zlpr.cli import main
from zlpr.cli.digits import SIDE, digit_sets
from zlpr.cli.pictures import learning_curves, samples

PNG = b"\x89PNG\r\n\x1a\n"


def test_pictures_show_the_digits_of_their_label_set() -> None:
    data = digit_sets(seed=1, n_train=300, n_test=100)
    assert data.X_train.shape == (300, SIDE * SIDE)
    assert data.Y_test.shape == (100, 10)
    assert data.X_train.min() == 0
    assert data.X_train.max() == 1
    cells = data.X_train.reshape(300, 2, SIDE // 2, 2, SIDE // 2).any(axis=(2, 4)).sum(axis=(1, 2))
    assert set(cells) == {0, 1, 2, 3, 4}
    assert (data.Y_train.sum(axis=1) <= cells).all()  # a digit may occur twice
    assert ((data.Y_train.sum(axis=1) == 0) == (cells == 0)).all()


def test_train_and_test_share_no_handwritten_digit() -> None:
    data = digit_sets(seed=0, n_train=200, n_test=200)
    train, test = ({cell.tobytes() for cell in _cells(X) if cell.any()} for X in (data.X_train, data.X_test))
    assert train
    assert test
    assert not train & test


def _cells(X: np.ndarray) -> np.ndarray:
    half = SIDE // 2
    return X.reshape(-1, 2, half, 2, half).transpose(0, 1, 3, 2, 4).reshape(-1, half * half)


def test_the_seed_decides_the_task() -> None:
    first, again, other = (digit_sets(seed, 20, 10) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.X_train, again.X_train)
    assert (first.X_train != other.X_train).any()


def test_demo_prints_one_table_and_writes_the_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "demo"
    assert (
        main(["demo", "--quick", "--epochs", "2", "--quiet", "--backend", "numpy", "--out", str(folder)]) == 0
    )
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("numpy", "ZLPR", "sigmoid cross-entropy", "micro-F1", "LRAP", "seconds", "deviation"):
        assert word in out
    assert {path.name for path in folder.iterdir()} == {"learning-curves.png", "samples.png"}
    assert all(path.read_bytes().startswith(PNG) for path in folder.iterdir())


@pytest.mark.library("torch")
def test_demo_runs_every_library_there_is_and_names_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {"cupy": "not installed", "jax": "not installed"}
    monkeypatch.setattr("zlpr.cli.demo.why_unusable", reasons.get)
    assert main(["demo", "--quick", "--epochs", "2", "--quiet", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if line.startswith("│")}
    assert "not run (not installed)" in rows["cupy"]
    assert "not run (not installed)" in rows["jax"]
    deviation = float(rows["torch"].split("│")[-2])
    assert deviation <= 1e-9
    assert "Largest deviation of a library from NumPy" in out


def test_demo_stops_at_ctrl_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zlpr.cli.demo._train", interrupted)
    assert main(["demo", "--quick", "--backend", "numpy", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "zlpr: interrupted: stopped; no file is half written\n"
    assert not list(tmp_path.iterdir())


def test_pictures_cope_with_perfect_and_hopeless_models() -> None:
    data = digit_sets(seed=0, n_train=10, n_test=30)
    for scores in (2.0 * data.Y_test - 1, 1 - 2.0 * data.Y_test):
        assert samples(data.X_test, data.Y_test, scores).startswith(PNG)
    curve = [2.0, 1.0, 0.5]
    for curves in ({"numpy": curve}, {"numpy": curve, "torch": curve, "cupy": curve, "jax": curve}):
        assert learning_curves(curves, curve).startswith(PNG)
