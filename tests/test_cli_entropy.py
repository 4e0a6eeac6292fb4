"""`zlpr entropy`: numbers of the library, files of every kind, the picture, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from _data import real_data

pytest.importorskip("typer", reason="the command line needs the cli extra")
from zlpr import _walk
from zlpr.cli import main
from zlpr.cli.heat_map import heat_map
from zlpr.entropy import knn_entropy, knn_mutual_information, permutation_test

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ("height", "weight", "age")


def points(n: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    x[:, 1] += x[:, 0]
    return x


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    rows = [",".join(map(repr, row)) for row in points().tolist()]
    path.write_text("\n".join([",".join(NAMES), *rows]) + "\n")
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    found = main(["entropy", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def test_entropy_of_the_columns_together(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, csv, "--report", "json", "-k", 4, "--base", 2)
    assert err == ""
    found = json.loads(out)
    value, error = knn_entropy(points(), k=4, base=2, return_std=True)
    assert found["entropy"] == pytest.approx(float(value), abs=1e-13)
    assert found["standard_error"] == pytest.approx(float(error), abs=1e-13)
    assert (found["rows"], found["columns"], found["k"], found["unit"]) == (40, list(NAMES), 4, "bits")
    table, _ = run(capsys, csv, "-k", 4, "--base", 2)
    for word in ("people.csv", "entropy (bits)", f"{float(value):.4f}", f"{float(error):.4f}"):
        assert word in table


def test_every_kind_of_file_gives_the_same(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", points())
    np.savez(tmp_path / "x.npz", X=points(), feature_names=np.asarray(NAMES))
    np.savez(tmp_path / "two.npz", other=points() * 2, mine=points(), columns=np.asarray(NAMES))
    files = [(csv,), (tmp_path / "x.npy",), (tmp_path / "x.npz",), (tmp_path / "two.npz", "--array", "mine")]
    found = [json.loads(run(capsys, *file, "--report", "json")[0]) for file in files]
    assert {f["entropy"] for f in found} == {found[0]["entropy"]}
    assert [f["columns"] for f in found] == [list(NAMES), ["0", "1", "2"], list(NAMES), list(NAMES)]
    np.save(tmp_path / "line.npy", points()[:, 0])
    chosen = json.loads(run(capsys, csv, "--columns", "height", "--report", "json")[0])
    assert (
        json.loads(run(capsys, tmp_path / "line.npy", "--report", "json")[0])["entropy"] == chosen["entropy"]
    )


@pytest.mark.parametrize("estimator", ["ksg1", "ksg2", "3h"])
def test_pairs_are_those_of_the_library(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], estimator: str
) -> None:
    picture = tmp_path / "m.png"
    out, err = run(capsys, csv, "--pairs", "--estimator", estimator, "--out", picture, "--report", "json")
    assert err == ""
    found = json.loads(out)
    for i in range(3):
        assert found["mutual_information"][i][i] is None
        for j in range(3):
            if i != j:
                x, y = (points()[:, [c]] for c in sorted((i, j)))
                own = float(knn_mutual_information(x, y, estimator=estimator))
                assert found["mutual_information"][i][j] == pytest.approx(own, abs=1e-13)
    assert found["picture"] == str(picture)
    assert picture.read_bytes().startswith(PNG)


def test_pairs_as_a_table_with_p_values(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (csv, "--pairs", "--permutations", 9, "--seed", 3, "--out", tmp_path / "m.png")
    out, _ = run(capsys, *arguments)
    x = points()
    test = permutation_test(knn_mutual_information, x[:, :1], x[:, 1:2], n=9, rng=3)
    assert f"{float(test.value):.3f} (p {float(test.p_value):.3g})" in out
    assert f"picture: {tmp_path / 'm.png'}" in out
    found = json.loads(run(capsys, *arguments, "--report", "json")[0])
    assert found["p_values"][1][0] == float(test.p_value)


def test_many_columns_are_listed_by_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(2).normal(size=(30, 10))
    x[:, 7] = x[:, 2] + 0.1 * x[:, 7]
    np.save(tmp_path / "x.npy", x)
    out, _ = run(capsys, tmp_path / "x.npy", "--pairs", "--out", tmp_path / "m.png")
    assert "20 largest of 45 pairs" in " ".join(out.split())
    first = next(line for line in out.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in first.split("│")[1:3]] == ["2", "7"]


@pytest.mark.library("numpy", "torch", "jax")
def test_backends_agree(xp, csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--pairs", "--out", tmp_path / "m.png", "--report", "json")
    own, numpys = (
        json.loads(run(capsys, csv, *options, "--backend", b)[0])["mutual_information"]
        for b in (xp.name, "numpy")
    )
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert own[i][j] == pytest.approx(numpys[i][j], abs=1e-12)


@pytest.mark.library("jax")
def test_equal_rows_are_told_where_values_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equal_rows(tmp_path / "data.csv")
    for options in ((), ("--pairs", "--out", tmp_path / "m.png")):
        _, err = run(capsys, tmp_path / "data.csv", "--backend", "jax", *options, code=2)
        assert "--duplicates drop or clamp" in err
        assert err.count("\n") == 1


def test_ranks_and_raw_units(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, option in (("rank", "rank"), ("none", False)):
        out, _ = run(
            capsys, csv, "--pairs", "--standardize", name, "--out", tmp_path / "m.png", "--report", "json"
        )
        own = knn_mutual_information(points()[:, :1], points()[:, 1:2], standardize=option)
        assert json.loads(out)["mutual_information"][0][1] == pytest.approx(float(own), abs=1e-13)


def test_the_memory_bound_reaches_the_blocks(
    csv: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rows_of = _walk._query_rows

    def recorded(*args: object) -> int:
        seen.append(_walk._query_memory.get())
        return rows_of(*args)

    monkeypatch.setattr(_walk, "_query_rows", recorded)
    bounded = run(capsys, csv, "--memory", 1, "--report", "json")[0]
    assert seen
    assert set(seen) == {1 << 20}
    assert bounded == run(capsys, csv, "--report", "json")[0]
    assert seen[-1] is None  # no bound is left behind
    x = points()
    with _walk.query_memory(8 * 100):
        assert _walk._query_rows(x, 10) == 10
        assert _walk._query_rows(x, 1000) == 1


@pytest.mark.library("numpy", "torch")
def test_bounded_memory_changes_no_result(xp) -> None:
    x = xp.asarray(points(200))
    free = knn_entropy.value_and_grad(x, method="brute")
    with _walk.query_memory(8 * 1000):
        bounded = knn_entropy.value_and_grad(x, method="brute")
    np.testing.assert_allclose(xp.to_numpy(bounded[0]), xp.to_numpy(free[0]), rtol=1e-14)
    np.testing.assert_allclose(xp.to_numpy(bounded[1]), xp.to_numpy(free[1]), atol=1e-14)


def equal_rows(path: Path) -> None:
    path.write_text("a,b\n" + "1,2\n" * 6)


BAD = {
    "no file": (lambda path: None, (), "No such file"),
    "one column": (lambda path: path.write_text("a\n1\n2\n3\n"), ("--pairs",), "takes two columns or more"),
    "missing column": (lambda path: path.write_text("a,b\n1,2\n"), ("--columns", "q"), "missing column 'q'"),
    "column twice": (
        lambda path: path.write_text("a,b\n1,2\n"),
        ("--columns", "a,a"),
        "--columns names 'a' twice",
    ),
    "few rows": (lambda path: path.write_text("a,b\n1,2\n3,5\n"), (), "k must be at least 1 and at most 1"),
    "equal rows": (equal_rows, (), "--duplicates drop or clamp"),
    "equal rows in pairs": (equal_rows, ("--pairs",), "'a' and 'b': rows repeat"),
    "not finite": (
        lambda path: path.write_text("a,b\n1,2\n3,inf\n"),
        (),
        "row 2, column 'b': expected a finite",
    ),
    "base": (
        lambda path: path.write_text("a,b\n1,2\n3,4\n5,7\n8,1\n2,2\n9,9\n"),
        ("--base", "1"),
        "base must be",
    ),
    "options of pairs": (equal_rows, ("--permutations", "9"), "go with --pairs"),
    "array of a csv": (lambda path: path.write_text("a,b\n1,2\n"), ("--array", "X"), "is no .npz file"),
    "picture": (
        lambda path: path.write_text("a,b\n1,2\n"),
        ("--pairs", "--out", "m.pdf"),
        "must end in .png",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    write, options, message = BAD[case]
    path = tmp_path / "data.csv"
    write(path)
    out = ("--out", tmp_path / "m.png") if "--pairs" in options and "--out" not in options else ()
    printed, err = run(capsys, path, *options, *out, code=2)
    assert printed == ""
    assert err.startswith("zlpr: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] in ([], ["data.csv"])


def test_bad_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "two.npz", a=points(), b=points())
    assert "Give --array with one of a, b" in run(capsys, tmp_path / "two.npz", code=2)[1]
    assert "has no array 'c'; found a, b" in run(capsys, tmp_path / "two.npz", "--array", "c", code=2)[1]
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    assert "must be two-dimensional" in run(capsys, tmp_path / "cube.npy", code=2)[1]
    (tmp_path / "bad.npy").write_bytes(b"not an array")
    assert "not a readable .npy file" in run(capsys, tmp_path / "bad.npy", code=2)[1]


def test_the_picture_has_a_place_for_every_pair() -> None:
    values = np.asarray([[np.nan, 0.2, 0.9], [0.2, np.nan, -0.1], [0.9, -0.1, np.nan]])
    small = heat_map(values, NAMES, "nats")
    assert small.startswith(PNG)
    assert small != heat_map(values * [[1], [1], [0.5]], NAMES, "nats")
    assert heat_map(np.zeros((40, 40)), [f"a very long name {i}" for i in range(40)], "nats").startswith(PNG)


def test_real_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = real_data("cont_california.npz")
    options = (
        "--columns",
        "Latitude,Longitude,HouseAge",
        "--duplicates",
        "clamp",
        "--out",
        tmp_path / "m.png",
    )
    found = json.loads(run(capsys, path, "--pairs", "--report", "json", *options)[0])["mutual_information"]
    assert found[0][1] > 1.5  # California lies along a line
    assert abs(found[0][2]) < 0.2
