"""Contenders timed one after the other, round by round, so that a busy moment of the machine hits them alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

Calls = dict[str, Callable[[], object]]


def medians(calls: Calls, seconds: float = 8.0, rounds_at_least: int = 3) -> dict[str, float]:
    """Median time of each, one call of every contender after the other, in an order drawn anew each round.

    Whoever comes after a library that leaves its threads spinning, or its data in the cache, is not always the same.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    names, started, rounds, draws = list(calls), time.perf_counter(), 0, random.Random(0)
    while rounds < rounds_at_least or (time.perf_counter() - started < seconds and rounds < 400):
        draws.shuffle(names)
        for name in names:
            before = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - before)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}
