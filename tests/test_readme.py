"""The examples of the README and of the pages beside it run on the library that each of them shows."""

from pathlib import Path

import pytest

from readme_blocks import blocks

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/training.md", "docs/r_drop.md", "docs/regularizers.md")


def _param(block):
    name = f"{Path(block.page).stem}-line{block.line}"
    return pytest.param(block, id=name, marks=pytest.mark.library(block.needs))


@pytest.mark.parametrize("block", [_param(block) for page in PAGES for block in blocks(ROOT / page)])
def test_block_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block.run()
    if block.shown is not None:
        assert capsys.readouterr().out == block.shown


def test_ci_runs_the_line_of_the_readme():
    line = "python -m pip install nox && nox"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8")
    assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
