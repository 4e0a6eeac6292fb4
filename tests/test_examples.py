"""The programs in docs/examples print what the documentation says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from zlpr import optim

DOCS = Path(__file__).parents[1] / "docs"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", DOCS / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    spec = importlib.util.spec_from_file_location("docs_gelu", DOCS / "gelu.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.setattr(sys, "argv", ["gelu.py"])
    program.main()
    tables = capsys.readouterr().out.strip().split("\n\n")
    page = (DOCS / "gelu.md").read_text(encoding="utf-8")
    assert [len(table.splitlines()) for table in tables] == [11, 5]
    assert all(table in page for table in tables)
