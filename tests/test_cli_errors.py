"""Bad input: exit code 2, exactly one line on stderr that says what and where, and no file written."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the cli extra")
import zlpr.cli
from zlpr.cli import main

X = np.arange(12.0).reshape(6, 2)
Y = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1]], np.uint8)
CSV = "a,b,y,z\n1,2,1,0\n3,4,0,1\n5,6,1,1\n"
ARFF = "@relation 't: -C 1'\n@attribute y {0,1}\n@attribute a numeric\n@attribute c {u,v,w}\n@data\n"


def npz(**arrays: object) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content)


def raw(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content)


def npy_under_that_name(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def with_value(value: float) -> np.ndarray:
    changed = X.copy()
    changed[3, 1] = value
    return changed


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail; the one line it says."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("zlpr: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


BAD_FILES = {
    "missing file": ("none.csv", None, "2", "No such file"),
    "unknown suffix": (
        "data.xlsx",
        raw(b"x"),
        "2",
        "unknown kind of file; expected a name ending in .npz, .csv",
    ),
    "folder": ("folder.csv", Path.mkdir, "2", "not a file"),
    "empty csv": ("data.csv", raw(b""), "2", "the file is empty"),
    "blank csv": ("data.csv", raw(b"\n \n"), "2", "the file is empty"),
    "header only": ("data.csv", text("a,b,y\n"), "1", "has a header row but no data"),
    "empty npz": ("data.npz", raw(b""), None, "the file is empty"),
    "empty gz": ("data.csv.gz", raw(gzip.compress(b"")), "1", "the file is empty"),
    "empty arff": ("data.arff", text("@relation x\n@attribute a numeric\n@data\n"), "1", "0 rows"),
    "empty svm": ("data.svm", raw(b"\n"), None, "has no rows"),
    "no labels option": ("data.csv", text(CSV), None, "Give --labels"),
    "missing column": ("data.csv", text(CSV), "y,q", "missing column 'q'"),
    "labels empty": ("data.csv", text(CSV), " , ", "--labels is empty"),
    "too many labels": ("data.csv", text(CSV), "4", "--labels 4, but the file has 4 columns"),
    "NaN in csv": ("data.csv", text(CSV.replace("6", "nan")), "2", "row 3, column 'b': expected a finite"),
    "infinity": ("data.npz", npz(X=with_value(np.inf), Y=Y), None, "row 4, column '1': expected a finite"),
    "NaN in npz": ("data.npz", npz(X=with_value(np.nan), Y=Y), None, "row 4, column '1': expected a finite"),
    "text in a cell": (
        "data.csv",
        text(CSV.replace("4", "four")),
        "2",
        "row 2, column 'b': expected a number, found 'four'",
    ),
    "empty cell": (
        "data.csv",
        text(CSV.replace("4", "")),
        "2",
        "row 2, column 'b': expected a number, found an empty cell",
    ),
    "short row": ("data.csv", text(CSV + "1,2,1\n"), "2", "row 4 has 3 cells, but the header has 4"),
    "column twice": ("data.csv", text("a,a,y\n1,2,1\n"), "1", "names 'a' more than once"),
    "binary csv": ("data.csv", raw(b"\xff\xfe\x00"), "1", "not UTF-8 text"),
    "not gzip": ("data.csv.gz", text(CSV), "2", "cannot read"),
    "cut gzip": ("data.csv.gz", raw(gzip.compress(CSV.encode() * 99)[:40]), "2", "cannot read"),
    "strings in npz": (
        "data.npz",
        npz(X=X.astype(str), Y=Y),
        None,
        "X must hold numbers, but its dtype is <U",
    ),
    "objects in npz": ("data.npz", npz(X=X.astype(object), Y=Y), None, "not a readable .npz file"),
    "not npz": ("data.npz", raw(b"PK\x03\x04 no"), None, "not a readable .npz file"),
    "npy as npz": ("data.npz", npy_under_that_name, None, "not a readable .npz file"),
    "no X": ("data.npz", npz(Z=X, Y=Y), None, "has no array 'X' (found Y, Z)"),
    "no Y": ("data.npz", npz(X=X), None, "has no array 'Y' (found X)"),
    "one-dimensional Y": ("data.npz", npz(X=X, Y=Y[:, 0]), None, "Y must be two-dimensional"),
    "row mismatch": ("data.npz", npz(X=X, Y=Y[:5]), None, "X has 6 rows but Y has 5"),
    "no rows": ("data.npz", npz(X=X[:0], Y=Y[:0]), None, "has 0 rows and 2 features"),
    "no label column": ("data.npz", npz(X=X, Y=Y[:, :0]), None, "has no label column"),
    "broken CSR": (
        "data.npz",
        npz(X_indices=[9], X_indptr=[0, 1], X_shape=[1, 2], Y=Y[:1]),
        None,
        "CSR parts",
    ),
    "names mismatch": (
        "data.npz",
        npz(X=X, Y=Y, label_names=["y"]),
        None,
        "label_names has 1 names for 2 columns",
    ),
    "split mismatch": ("data.npz", npz(X=X, Y=Y, is_train=[1, 0]), None, "is_train must be 6 booleans"),
    "empty split": ("data.npz", npz(X=X, Y=Y, is_train=[0] * 6), None, "leaves no training row"),
    "label 2": (
        "data.csv",
        text(CSV.replace("0,1\n", "0,2\n")),
        "2",
        "row 2, label 'z': expected 0 or 1, found 2",
    ),
    "label 0.5": ("data.npz", npz(X=X, Y=Y * 0.5), None, "row 1, label '0': expected 0 or 1, found 0.5"),
    "label -1": ("data.npz", npz(X=X, Y=Y * 2.0 - 1), None, "row 1, label '1': expected 0 or 1, found -1"),
    "label NaN": ("data.npz", npz(X=X, Y=np.where(Y, np.nan, 0)), None, "expected 0 or 1, found nan"),
    "no positive": ("data.npz", npz(X=X, Y=Y * 0), None, "no training row has a positive label"),
    "no positive in svm": ("data.svm", text(" 1:1\n 1:2\n"), None, "no row has a label"),
    "negative svm label": ("data.svm", text("-1 1:1\n"), None, "row 1 has the label -1"),
    "svm label beyond": ("data.svm", text("1 1:1\n5 1:2\n"), "3", "row 2 has the label 5, expected 1 to 3"),
    "svm label names": ("data.svm", text("1 1:1\n"), "a,b", "give the number of labels"),
    "svm nonsense": ("data.svm", text("1 one:two\n"), None, "not multi-label libsvm text"),
    "too large": ("data.npz", npz(X=with_value(1e300), Y=Y), None, "column '1' are too large"),
    "arff without data": ("data.arff", text("@relation x\n@attribute a numeric\n"), None, "no @data line"),
    "arff nonsense": ("data.arff", text("hello\n"), None, "not an ARFF header line: 'hello'"),
    "arff text attribute": (
        "data.arff",
        text("@relation x\n@attribute a string\n@data\nq\n"),
        "1",
        "only numeric and nominal",
    ),
    "arff attribute line": (
        "data.arff",
        text("@relation x\n@attribute a\n@data\nq\n"),
        "1",
        "cannot read the attribute line",
    ),
    "arff missing value": (
        "data.arff",
        text(ARFF + "1,2,u\n1,?,v\n"),
        None,
        "row 2, column 'a': the value is missing (?)",
    ),
    "arff undeclared value": (
        "data.arff",
        text(ARFF + "1,2,x\n"),
        None,
        "row 1, column 'c': expected one of u, v, w, found 'x'",
    ),
    "arff text in number": (
        "data.arff",
        text(ARFF + "1,x,u\n"),
        None,
        "row 1, column 'a': expected a number, found 'x'",
    ),
    "arff label 2": (
        "data.arff",
        text(ARFF + "2,1,u\n"),
        None,
        "row 1, column 'y': expected one of 0, 1, found '2'",
    ),
    "arff short row": (
        "data.arff",
        text(ARFF + "1,2\n"),
        None,
        "row 1 has 2 cells, but there are 3 attributes",
    ),
    "arff sparse": ("data.arff", text(ARFF + "{0 1}\n"), None, "sparse notation"),
    "arff count": (
        "data.arff",
        text(ARFF.replace("-C 1", "-C 3") + "1,2,u\n"),
        None,
        "-C 3, but there are 3 attributes",
    ),
    "arff nominal label": (
        "data.arff",
        text(ARFF.replace("-C 1", "-C -1").replace("y {0,1}", "y real") + "1,2,u\n"),
        None,
        "'c' must be declared {0,1}",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_data_is_one_line_and_no_file(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, labels, message = BAD_FILES[case]
    path, out = tmp_path / name, tmp_path / "model.safetensors"
    if write is not None:
        write(path)
    options = ["--labels", labels] if labels is not None else []
    assert message in failure(capsys, "fit", path, "--out", out, *options)
    assert not out.exists()
    assert {entry.name for entry in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "tensorflow"], "'tensorflow' is not one of 'numpy', 'torch', 'cupy', 'jax'"),
        (["--hidden", "10,x"], "--hidden must be sizes with commas between, such as 100,50, not '10,x'"),
        (["--hidden", "10", "--solver", "lbfgs"], "--solver lbfgs is for linear models"),
        (["--test-size", "1.5"], "--test-size must be between 0 and 1, not 1.5"),
        (["--test-size", "0.99"], "the split leaves no training row"),
        (["--epochs", "0"], "--epochs"),
        (["--learning-rate", "0"], "--learning-rate must be positive, not 0"),
        (["--alpha", "-1"], "--alpha must not be negative, not -1"),
        (
            ["--hidden", "4", "--learning-rate", "1e300", "--epochs", "3"],
            "training diverged: parameters are not finite; try a smaller --learning-rate",
        ),
        (["--frobnicate"], "--frobnicate"),
        (["--labels", "3"], "--labels 3, but Y has 2 columns"),
        (["--labels", "q"], "missing column 'q'"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    assert message in failure(
        capsys, "fit", tmp_path / "data.npz", "--out", tmp_path / "m.safetensors", *options
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize(
    ("out", "message"), [("nowhere/m.safetensors", "does not exist"), ("folder", "it is a folder")]
)
def test_output_that_cannot_be_written_is_said_before_training(
    out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    (tmp_path / "folder").mkdir()
    assert message in failure(capsys, "fit", tmp_path / "data.npz", "--out", tmp_path / out)


def test_output_without_permission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    monkeypatch.setattr(
        "os.access", lambda path, mode: mode != os.W_OK
    )  # the tests may run as root, whom nothing stops
    assert "permission denied" in failure(
        capsys, "fit", tmp_path / "data.npz", "--out", tmp_path / "m.safetensors"
    )


def test_disk_full_leaves_the_old_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zlpr.cli.files import write_whole

    def fails(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    path = tmp_path / "model"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(ValueError, match="No space left"):
        write_whole(path, b"new and longer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert path.read_text() == "old"


def test_library_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", X=X, Y=Y)
    monkeypatch.setattr("zlpr.cli.backends.find_spec", lambda name: None)
    said = failure(capsys, "fit", tmp_path / "data.npz", "--backend", "torch", "--out", tmp_path / "m")
    assert "--backend torch: torch is not installed; pip install torch" in said


def test_without_the_extra_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zlpr.cli, "find_spec", lambda name: None if name in ("typer", "rich") else object())
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        'zlpr: the command line needs pip install "zlpr[cli]" (missing: typer, rich)\n'
    )


def test_the_process_says_the_same_as_the_function(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from zlpr.cli import main; sys.exit(main())", "fit", "none.csv"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "zlpr: error: cannot read none.csv: No such file or directory\n"


@pytest.fixture
def model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "train.csv").write_text(CSV)
    assert (
        main(["fit", str(tmp_path / "train.csv"), "--labels", "2", "--out", str(tmp_path / "m.safetensors")])
        == 0
    )
    capsys.readouterr()
    return tmp_path / "m.safetensors"


def foreign(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, path, {"format": "pt"})


def wrong_shape(path: Path) -> None:
    from dataclasses import replace

    from zlpr.cli.model_file import load_model, save_model

    found = load_model(path)
    save_model(path, replace(found, mean=np.zeros(5)))


def newer(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, path, {"format": "zlpr.MultilabelClassifier", "format_version": "99"})


def without_layers(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.zeros(3)}, path, {"format": "zlpr.MultilabelClassifier", "format_version": "1"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\x00" * 500), "damaged"),
        (lambda path: path.write_text(CSV), "damaged"),
        (foreign, "not a model that zlpr fit wrote"),
        (newer, "in a format that zlpr"),
        (without_layers, "damaged"),
        (wrong_shape, "damaged"),
    ],
)
def test_model_files_that_are_none(
    model: Path,
    spoil: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(model)
    out = tmp_path / "p.csv"
    assert message in failure(capsys, "predict", model, tmp_path / "train.csv", "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.npz", npz(X=X[:, :1]), "has 1 features, but the model was trained on 2"),
        ("x.csv", text("a,c\n1,2\n"), "missing column 'b'"),
        ("x.csv", text("a,b\n1,\n"), "row 1, column 'b'"),
        ("x.svm", text("1 1:1 3:5\n"), "beyond the 2 features"),
        ("x.csv", text("a,b,y,z\n1,2,0,7\n"), "row 1, label 'z': expected 0 or 1, found 7"),
    ],
)
def test_data_that_does_not_fit_the_model(
    model: Path,
    name: str,
    write: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(tmp_path / name)
    out = tmp_path / "p.csv"
    assert message in failure(capsys, "predict", model, tmp_path / name, "--out", out)
    assert not out.exists()


def test_predictions_go_to_csv_or_npz_only(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, "predict", model, tmp_path / "train.csv", "--out", tmp_path / "p.parquet")
    assert "--out must end in .csv or .npz" in said


def test_demo_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in failure(capsys, "demo", "--quick", "--out", tmp_path / "file")


def test_the_input_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,b,x,y\n1,2,0,1\n2,1,1,0\n3,5,0,1\n4,4,1,1\n")
    before = data.read_bytes()
    assert main(["fit", str(data), "--labels", "x,y", "--out", str(data), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["fit", str(data), "--labels", "x,y", "--out", str(tmp_path / "m"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "m"), str(data), "--out", str(data)]) == 2
    assert "it would be lost" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_a_label_named_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,x\n1,0\n2,1\n")
    assert main(["fit", str(data), "--labels", "x,x", "--out", str(tmp_path / "m"), "--quiet"]) == 2
    assert "--labels names 'x' twice" in capsys.readouterr().err
