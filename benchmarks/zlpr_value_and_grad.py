"""Value and gradient of the ZLPR loss beside its peers: ratios of medians, interleaved in one run.

The unit is one ``numpy.exp(x, out=...)`` pass over the scores. PyTorch's row is the popular dense form (masks of 1e12,
an appended zero, logsumexp) under autograd. Extra peak memory is NumPy's allocations in one call, by tracemalloc, in
multiples of the scores array.

    python benchmarks/zlpr_value_and_grad.py [--threads N]
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Callable

import numpy as np
from _interleaved import medians

from zlpr.losses import zlpr_loss

SHAPES = ((256, 100), (4096, 1000), (512, 50_000))


def popular_torch(
    scores: np.ndarray, targets: np.ndarray, threads: int | None
) -> Callable[[], object] | None:
    """The dense form that circulates, under autograd; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    if threads:
        torch.set_num_threads(threads)
    s = torch.from_numpy(scores.copy()).requires_grad_(True)
    y = torch.from_numpy(targets.astype(scores.dtype))

    def call() -> object:
        s.grad = None
        signed = (1 - 2 * y) * s
        zeros = torch.zeros_like(signed[:, :1])
        negatives = torch.cat([signed - y * 1e12, zeros], dim=-1)
        positives = torch.cat([signed - (1 - y) * 1e12, zeros], dim=-1)
        loss = (torch.logsumexp(negatives, dim=-1) + torch.logsumexp(positives, dim=-1)).mean()
        loss.backward()
        return s.grad

    return call


def contenders(shape: tuple[int, int], dtype: str, threads: int | None) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=shape) * 3).astype(dtype)
    targets = rng.random(shape) < 0.005
    dense = rng.random(shape) < 0.3
    floats = targets.astype(dtype)
    soft = (0.1 + 0.8 * dense).astype(dtype)
    into = np.empty_like(scores)
    gradient = np.empty_like(scores)
    calls: dict[str, Callable[[], object] | None] = {
        "numpy.exp pass": lambda: np.exp(scores, out=into),
        "bool labels, 0.5 % positive": lambda: zlpr_loss.value_and_grad(scores, targets),
        "the same, out=": lambda: zlpr_loss.value_and_grad(scores, targets, out=gradient),
        "bool labels, 30 % positive": lambda: zlpr_loss.value_and_grad(scores, dense),
        "float 0-1 labels": lambda: zlpr_loss.value_and_grad(scores, floats),
        "soft labels": lambda: zlpr_loss.value_and_grad(scores, soft),
        "value alone": lambda: zlpr_loss(scores, targets),
        "torch autograd, popular form": popular_torch(scores, targets, threads),
    }
    return {name: call for name, call in calls.items() if call is not None}


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    threads = parser.parse_args().threads
    for shape in SHAPES:
        for dtype in ("float32", "float64"):
            calls = contenders(shape, dtype, threads)
            found = medians(calls)
            unit, ours = found["numpy.exp pass"], found["bool labels, 0.5 % positive"]
            size = shape[0] * shape[1] * np.dtype(dtype).itemsize
            print(f"\n{shape} {dtype}: exp pass {unit * 1e3:.3f} ms")
            for name, seconds in found.items():
                memory = "" if "torch" in name else f"   extra peak {peak(calls[name]) / size:.2f}"
                print(f"  {name:30s} {seconds / unit:7.2f} exp   {seconds / ours:6.2f} x ours{memory}")


if __name__ == "__main__":
    main()
