"""The programs in docs/examples print what the documentation says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from zlpr import optim

DOCS = Path(__file__).parents[1] / "docs"


def program(path):
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def example(name):
    return program(DOCS / "examples" / f"{name}.py")


# Found independently by plain loops in float64, with the constant rate 1 and 1.9 over the curvature at the start
@pytest.mark.parametrize(("start", "counts"), [(2.0, [46, 19, 2, 7]), (5.0, [1067, 556, 5, 10])])
def test_steps_on_cosh(start, counts):
    clipping = example("clipping")
    assert clipping.cosh_row(start) == counts
    rate = 1.0 / np.cosh(start)
    assert (
        clipping.steps_of(optim.sgd(rate), clipping.math.sinh, start) == counts[0]
    )  # as the loop of bare numbers


@pytest.mark.parametrize(("start", "counts"), [(8.0, [8, 13]), (10.0, [10, 15]), (12.0, [12, 17])])
def test_clipped_steps_on_cosh(start, counts):
    clipping = example("clipping")
    methods = [clipping.clipped_descent(1.0, 1.0, mode) for mode in ("hard", "soft")]
    assert [clipping.steps_of(m, clipping.math.sinh, start) for m in methods] == counts


def test_soft_clipping_on_the_fourth_power():
    clipping = example("clipping")
    assert clipping.steps_of(clipping.clipped_descent(0.16, 10.0, "soft"), lambda x: 4 * x**3, 10.0) == 599


def test_table_of_the_page_is_that_of_the_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["clipping.py"])
    example("clipping").main()
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 8
    assert table in (DOCS / "derivations" / "clipping.md").read_text(encoding="utf-8")


def test_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    clipping = example("clipping")
    value_and_grad, path = clipping.network_path(steps=20)
    found = optim.estimate_smoothness(value_and_grad, path)
    assert np.corrcoef(np.log(found.gradient_norm), np.log(found.smoothness))[0, 1] > 0.9
    clipping.draw(found, str(tmp_path / "smoothness.png"))
    assert (tmp_path / "smoothness.png").read_bytes().startswith(b"\x89PNG")


def test_tables_of_the_gelu_page_are_those_of_its_program(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gelu.py"])
    program(DOCS / "gelu.py").main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    page = (DOCS / "gelu.md").read_text(encoding="utf-8")
    assert [len(table.splitlines()) for table in tables] == [11, 5]
    assert all(table in page for table in tables)


def test_program_of_the_regularizers_page(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    page_maker = program(DOCS / "regularizers.py")
    monkeypatch.setattr(page_maker, "STEPS", 20)  # the table of the page takes 600
    monkeypatch.setattr(sys, "argv", ["regularizers.py", "--picture", str(tmp_path / "drawn.png")])
    page_maker.main()
    table = capsys.readouterr().out.splitlines()
    page = (DOCS / "regularizers.md").read_text(encoding="utf-8").splitlines()
    start = page.index(table[0])
    methods = [[row.split("|")[1] for row in rows] for rows in (table, page[start : start + len(table)])]
    assert methods[0] == methods[1]
    assert len(table) == 2 + len(page_maker.METHODS)
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_variances_of_gradient_estimates_on_the_page_of_the_vae():
    pytest.importorskip("sklearn")
    table = program(DOCS / "vae.py").variance_table()
    # exactly 4 σ² and m⁴ + 18 m² σ² + 15 σ⁴ over σ², minus 9, with m = -1.5 and σ = 0.7
    score = (1.5**4 + 18 * 1.5**2 * 0.49 + 15 * 0.49**2) / 0.49 - 9
    assert all(f" {value:.4f} " in table for value in (4 * 0.49, score))
    assert table in (DOCS / "vae.md").read_text(encoding="utf-8")


def test_page_of_the_frontier_is_that_of_the_stored_figures():
    pytest.importorskip("sklearn")
    frontier = program(DOCS.parent / "benchmarks" / "frontier.py")
    page = (DOCS / "autoencoders.md").read_text(encoding="utf-8")
    assert page.count("| EAE |") >= 2
    assert page == frontier.page()


def test_frechet_distance_is_that_of_the_fitted_normal_laws():
    linalg = pytest.importorskip("scipy.linalg")
    pytest.importorskip("sklearn")
    frontier = program(DOCS.parent / "benchmarks" / "frontier.py")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 3)), rng.normal(1.0, 2.0, size=(60, 3)) @ rng.normal(size=(3, 3))
    S, T = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + T - 2 * linalg.sqrtm(S @ T).real)
    assert frontier.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frontier.frechet_distance(a, a + np.asarray([3.0, 0.0, 4.0])) == pytest.approx(25.0)
