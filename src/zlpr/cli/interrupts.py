"""Ctrl-C during training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def noting_interrupts() -> Iterator[list[int]]:
    """Note every Ctrl-C: the estimator ends its training on one and returns what it has.

    Yields
    ------
    list of int
        Empty as long as nobody pressed Ctrl-C.
    """
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
