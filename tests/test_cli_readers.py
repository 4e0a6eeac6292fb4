"""Data files of every kind become the same table."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from _data import real_data

pytest.importorskip("typer", reason="the command line needs the cli extra")
from zlpr.cli.errors import InputError
from zlpr.cli.readers import Table, read_features, read_table

X = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, 0.25], [1.5, 0.0, 0.0], [7.0, 1.0, -4.0]])
Y = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.uint8)
HEADER = "height,width,'a b',red,green".replace("'", '"')


def csv_text() -> str:
    rows = [",".join(map(str, [*x, *y])) for x, y in zip(X.tolist(), Y.tolist(), strict=True)]
    return "\n".join([HEADER, *rows, ""])


def arff_text(relation: str = "toy: -C -2", labels_first: bool = False) -> str:
    features = ["@attribute height numeric", "@ATTRIBUTE 'width' REAL", "@attribute 'a b' integer"]
    labels = ["@attribute red {0,1}", "@attribute green {0, 1}"]
    parts = (Y.tolist(), X.tolist()) if labels_first else (X.tolist(), Y.tolist())
    rows = [",".join(map(str, [*a, *b])) for a, b in zip(*parts, strict=True)]
    header = [*labels, *features] if labels_first else [*features, *labels]
    return "\n".join(["% toy data", f"@relation '{relation}'", "", *header, "@data", "% a comment", *rows])


def assert_is_toy(table: Table) -> None:
    assert_array_equal(table.X, X)
    assert_array_equal(table.Y, Y)
    assert table.X.dtype == np.float64
    assert table.Y.dtype == np.uint8
    assert table.feature_names == ("height", "width", "a b")
    assert table.label_names == ("red", "green")


@pytest.mark.parametrize("labels", ["red,green", "2", " red , green "])
def test_csv_takes_labels_by_name_or_as_the_last_columns(tmp_path: Path, labels: str) -> None:
    path = tmp_path / "toy.csv"
    path.write_text(csv_text(), encoding="utf-8-sig")
    assert_is_toy(read_table(path, labels))


def test_csv_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv.gz"
    path.write_bytes(gzip.compress(csv_text().encode()))
    assert_is_toy(read_table(path, "2"))


def test_csv_labels_keep_the_order_they_were_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text(csv_text())
    table = read_table(path, "green,red")
    assert table.label_names == ("green", "red")
    assert_array_equal(table.Y, Y[:, ::-1])


def test_npz_dense(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    names = {"feature_names": ["height", "width", "a b"], "label_names": ["red", "green"]}
    np.savez(path, X=X.astype("f4"), Y=Y.astype(bool), is_train=np.array([1, 1, 0, 1]), **names)
    table = read_table(path)
    assert_is_toy(table)
    assert_array_equal(table.is_train, [True, True, False, True])
    assert_array_equal(read_table(path, "green").Y, Y[:, 1:])
    assert read_table(path, "2").label_names == ("red", "green")


@pytest.mark.parametrize("with_data", [True, False])
def test_npz_sparse(tmp_path: Path, with_data: bool) -> None:
    from scipy.sparse import csr_matrix

    dense = X if with_data else (X != 0).astype(float)
    sparse = csr_matrix(dense)
    parts = {
        "X_indices": sparse.indices.astype("u2"),
        "X_indptr": sparse.indptr,
        "X_shape": np.array(X.shape),
    }
    np.savez(
        tmp_path / "toy.npz",
        Y=Y,
        is_train_ours=np.ones(4, bool),
        **parts,
        **({"X_data": sparse.data} if with_data else {}),
    )
    table = read_table(tmp_path / "toy.npz")
    assert_array_equal(table.X, dense)
    assert table.label_names == ("0", "1")


@pytest.mark.parametrize("first", [0, 1])
def test_libsvm_counts_labels_from_zero_or_one(tmp_path: Path, first: int) -> None:
    path = tmp_path / "toy.svm"
    path.write_text(
        f"{first} 1:0.5 2:-1 3:2\n{first + 1} 2:3 3:0.25\n 1:1.5\n{first},{first + 1} 1:7 2:1 3:-4\n"
    )
    table = read_table(path)
    assert_array_equal(table.X, X)
    assert_array_equal(table.Y, Y)
    assert table.label_names == (str(first), str(first + 1))
    assert read_table(path, "3").Y.shape == (4, 3)


@pytest.mark.parametrize(
    ("relation", "labels_first"),
    [("toy: -C -2", False), ("toy: -C 2", True), ("toy: -C -2", True), ("x -c 2 -t", False)],
)
def test_arff_finds_the_labels_of_the_header(tmp_path: Path, relation: str, labels_first: bool) -> None:
    path = tmp_path / "toy.arff"
    path.write_text(arff_text(relation, labels_first))
    assert_is_toy(read_table(path))


def test_arff_sign_decides_when_both_ends_could_be_labels(tmp_path: Path) -> None:
    path = tmp_path / "toy.arff"
    attributes = "\n".join(f"@attribute {name} {{0,1}}" for name in "abcd")
    for count, labels in (("1", ("a",)), ("-1", ("d",))):
        path.write_text(f"@relation 'x: -C {count}'\n{attributes}\n@data\n1,0,0,1\n0,1,1,0\n")
        assert read_table(path).label_names == labels


def test_arff_labels_may_be_named(tmp_path: Path) -> None:
    path = tmp_path / "toy.arff"
    path.write_text(arff_text("plain"))
    assert_is_toy(read_table(path, "red,green"))
    with pytest.raises(InputError, match="which columns are labels"):
        read_table(path)


def test_arff_nominal_features_become_one_column_a_value(tmp_path: Path) -> None:
    path = tmp_path / "toy.arff"
    path.write_text(
        "@relation 'n: -C 1'\n@attribute y {0,1}\n@attribute c {red,'dark blue',\"it\\'s\"}\n@attribute z numeric\n"
        "@data\n1,'dark blue',2\n0, red ,3\n1,'it\\'s',4\n"
    )
    table = read_table(path)
    assert table.feature_names == ("c=red", "c=dark blue", "c=it's", "z")
    assert_array_equal(table.X, [[0, 1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4]])
    assert_array_equal(table.Y, [[1], [0], [1]])


def test_features_to_predict_on_are_matched_by_name(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text("a b,extra,width,height\n2,9,-1,0.5\n")
    table = read_features(path, ("height", "width", "a b"), ("red", "green"))
    assert_array_equal(table.X, X[:1])
    assert table.Y is None
    with pytest.raises(InputError, match="missing column 'depth'"):
        read_features(path, ("height", "depth"), ("red",))


def test_features_without_names_are_matched_by_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=X)
    assert_array_equal(read_features(tmp_path / "x.npz", ("height", "width", "a b"), ("red",)).X, X)
    (tmp_path / "x.svm").write_text("5 1:0.5 2:-1\n")
    table = read_features(tmp_path / "x.svm", ("0", "1", "2"), ("1", "2"))
    assert_array_equal(table.X, [[0.5, -1, 0]])
    assert table.Y is None  # the label 5 is not the model's


def test_the_formats_of_real_data_agree() -> None:
    emotions = read_table(real_data("emotions.csv.gz"), "6")
    same = read_table(real_data("ml_emotions.npz"))
    assert_allclose(emotions.X, same.X)
    assert_array_equal(emotions.Y, same.Y)
    assert emotions.label_names == same.label_names

    flags, same = read_table(real_data("flags.arff")), read_table(real_data("ml_flags.npz"))
    assert_allclose(flags.X, same.X)
    assert_array_equal(flags.Y, same.Y)
    assert (
        flags.label_names
        == same.label_names
        == ("red", "green", "blue", "yellow", "white", "black", "orange")
    )

    yeast, same = read_table(real_data("yeast_train.svm")), read_table(real_data("ml_yeast.npz"))
    assert_allclose(yeast.X, same.X[same.is_train], atol=1e-6)
    assert_array_equal(sorted(yeast.Y.sum(axis=0)), sorted(same.Y[same.is_train].sum(axis=0)))
