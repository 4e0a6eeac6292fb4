"""The command line: ``zlpr fit``, ``predict``, ``entropy``, ``generate`` and ``demo``.

Only `main` lives here, so that ``zlpr`` can say in one line what is missing when the ``cli`` extra is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

_NEEDED = ("typer", "rich", "sklearn", "scipy", "matplotlib")

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code: 0 when all went well, 2 for bad input or bad usage, 130 after Ctrl-C.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f'zlpr: the command line needs pip install "zlpr[cli]" (missing: {", ".join(missing)})',
            file=sys.stderr,
        )
        return 2
    from zlpr.cli.app import run

    return run(sys.argv[1:] if argv is None else argv)
