"""Run the Python blocks of a Markdown page, each in a namespace of its own: readme_blocks.py README.md.

A block with the line ``# needs: torch`` is run only where that module can be used. The ones that cannot are
counted and named; every array library's test session runs its own.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from _libraries import NAMES, why_unusable

_BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
_NEEDS = re.compile(r"^# needs: (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One Python block of a Markdown page."""

    page: str
    line: int
    needs: str  # the array library, "numpy" where the block names none
    code: str
    shown: str | None = None  # what the page says it prints, in a text block right after it

    def run(self) -> None:
        """Execute the block; an error points to its line of the page."""
        padded = "\n" * (self.line - 1) + self.code
        exec(compile(padded, self.page, "exec"), {"__name__": "__main__"})


def blocks(path: Path) -> list[Block]:
    """The Python blocks of a Markdown page, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            str(path), text.count("\n", 0, found.start(1)) + 1, _needed_library(found[1]), found[1], found[2]
        )
        for found in _BLOCK.finditer(text)
    ]


def _needed_library(code: str) -> str:
    needs = _NEEDS.search(code)
    name = needs[1] if needs else "numpy"
    if name not in NAMES:
        raise ValueError(f"a block needs {name}, which is none of {', '.join(NAMES)}")
    return name


def main(page: str) -> int:
    """Run every block that can be run here and say so; 1 when the page has none that can."""
    ran = 0
    for block in blocks(Path(page)):
        where = f"{Path(page).name}:{block.line}"
        if why := why_unusable(block.needs):
            print(f"{where}: NOT RUN, needs {block.needs} ({why})", flush=True)
            continue
        print(f"{where}: run", flush=True)
        block.run()
        ran += 1
    print(f"{ran} blocks run")
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
