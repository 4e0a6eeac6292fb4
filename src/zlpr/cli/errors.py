"""What the commands say when something is wrong: one line on stderr."""

from __future__ import annotations

import sys


class InputError(ValueError):
    """Input the user can correct; the command line prints its message as one line and exits with 2."""


def say(message: str, kind: str = "error") -> None:
    """Print one line on stderr, whatever line breaks the message carries."""
    print(f"zlpr: {kind}: {' '.join(message.split())}", file=sys.stderr)
