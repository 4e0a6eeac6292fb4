"""Neighbour search and entropy beside what users call today, interleaved in one run: ratios, not seconds.

`search`: the nearest neighbour of every point by brute force, beside the matrix product it cannot do without
(256-row passes, no selection), scikit-learn, faiss (float32) and PyTorch's cdist and topk.
`gradient`: entropy and gradient, k = 3, beside cdist, topk and autograd in PyTorch, and jax.jit(value_and_grad).
`tree`: low dimensions, beside SciPy's tree as it is and a Python loop over its queries, as NPEET has it.
`accuracy`: worst error of log r, and distances that are not positive, on data made to mislead.
`crossover`: time a point of tree and brute force, from which `zlpr.entropy.search` has its table.
`memory`: peak memory beside that of the data, each in a process of its own.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/entropy.py [SECTION ...] [--seconds S]
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from _interleaved import medians

from zlpr.entropy import knn_entropy, neighbors

SHAPES = ((256, 32), (1024, 128), (4096, 64), (4096, 8), (20_000, 10))
Call = Callable[[], object]


def points(n: int, d: int, dtype: str) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(n, d)).astype(dtype)


def product_alone(x: np.ndarray[Any, Any]) -> Call:
    left = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    right = np.concatenate([-2 * x, (x * x).sum(axis=1, keepdims=True)], axis=1).T.copy()

    def call() -> None:
        for i in range(0, len(x), 256):
            left[i : i + 256] @ right  # let go of before the next

    return call


def of_sklearn(x: np.ndarray[Any, Any]) -> Call:
    from sklearn.neighbors import NearestNeighbors

    return lambda: NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors()


def of_faiss(x: np.ndarray[Any, Any]) -> Call:
    import faiss

    faiss.omp_set_num_threads(1)
    single = x.astype("float32")
    return lambda: faiss.knn(single, single, 2)


def cdist_of(torch: Any, z: Any, k: int) -> Any:
    return torch.cdist(z, z).fill_diagonal_(math.inf).topk(k, largest=False)


def of_torch(x: np.ndarray[Any, Any]) -> Call:
    import torch

    torch.set_num_threads(1)
    z = torch.from_numpy(x)
    return lambda: cdist_of(torch, z, 1)


def gradient_of_torch(x: np.ndarray[Any, Any]) -> Call:
    import torch

    torch.set_num_threads(1)
    z = torch.from_numpy(x.copy()).requires_grad_(True)

    def call() -> object:
        z.grad = None
        distances = torch.cdist(z, z)
        distances = distances + torch.diag(torch.full((len(x),), math.inf, dtype=z.dtype))
        (z.shape[1] * distances.topk(3, largest=False).values[:, -1].log().mean()).backward()
        return z.grad

    return call


def gradient_of_jax(x: np.ndarray[Any, Any]) -> Call:
    import jax

    jax.config.update("jax_enable_x64", True)
    n, d = x.shape

    def entropy(z: Any) -> Any:
        squares = (z * z).sum(axis=1)
        powers = (
            squares[:, None]
            + squares[None, :]
            - 2 * z @ z.T
            + jax.numpy.diag(jax.numpy.full(n, math.inf, z.dtype))
        )
        return 0.5 * d * jax.numpy.log(-jax.lax.top_k(-powers, 3)[0][:, -1]).mean()

    both, on_device = jax.jit(jax.value_and_grad(entropy)), jax.numpy.asarray(x)
    return lambda: jax.block_until_ready(both(on_device))


def available(makers: dict[str, Callable[[], Call]]) -> Iterator[tuple[str, Call]]:
    for name, make in makers.items():
        try:
            yield name, make()
        except ImportError:
            print(f"{name}: not run (not installed)")


def printed(title: str, found: dict[str, float]) -> None:
    others = "".join(f"  {name} {found[name] / found['ours']:6.2f}" for name in found if name != "ours")
    print(f"{title}: {found['ours'] * 1e3:9.2f} ms; x ours:{others}", flush=True)


def search(seconds: float) -> None:
    for n, d in SHAPES:
        for dtype in ("float32", "float64"):
            x = points(n, d, dtype)
            makers = {
                "ours": lambda x=x: lambda: neighbors(x, 1, method="brute"),
                "product": lambda x=x: product_alone(x),
                "sklearn": lambda x=x: of_sklearn(x),
                "faiss": lambda x=x: of_faiss(x),
            }
            if n <= 4096:  # all pairs at once take 3 GB beyond
                makers["torch"] = lambda x=x: of_torch(x)
            printed(f"search {n} x {d} {dtype}", medians(dict(available(makers)), seconds))


def gradient(seconds: float) -> None:
    for n, d in SHAPES[:4]:
        for dtype in ("float32", "float64"):
            x = points(n, d, dtype)
            makers = {
                "ours": lambda x=x: lambda: knn_entropy.value_and_grad(x),
                "torch": lambda x=x: gradient_of_torch(x),
                "jax": lambda x=x: gradient_of_jax(x),
            }
            printed(f"gradient {n} x {d} {dtype}", medians(dict(available(makers)), seconds))


def tree(seconds: float) -> None:
    from scipy.spatial import cKDTree

    def loop(x: np.ndarray[Any, Any]) -> object:
        found = cKDTree(x)
        return [found.query(point, 2) for point in x]

    for n, d in ((20_000, 2), (200_000, 3), (1_000_000, 2)):
        x = points(n, d, "float64")
        calls: dict[str, Call] = {
            "ours": lambda x=x: neighbors(x, 1),
            "ours, one core": lambda x=x: one_core(x),
            "cKDTree": lambda x=x: cKDTree(x).query(x, 2),
            "cKDTree, all cores": lambda x=x: cKDTree(x).query(x, 2, workers=-1),
        }
        if n <= 20_000:
            calls["a loop"] = lambda x=x: loop(x)
        printed(f"tree {n} x {d}", medians(calls, seconds, 1 if n > 500_000 else 3))


def one_core(x: np.ndarray[Any, Any]) -> object:
    """As `neighbors`, with the tree on one core."""
    import zlpr.entropy._tree as of_tree

    workers, of_tree.WORKERS = of_tree.WORKERS, 1
    try:
        return neighbors(x, 1)
    finally:
        of_tree.WORKERS = workers


def accuracy(seconds: float) -> None:
    rng, n = np.random.default_rng(0), 2000
    for d in (2, 16, 64):
        half = rng.normal(size=(n // 2, d))
        for name, x in {
            "normal": rng.normal(size=(n, d)),
            "shifted by 1000": rng.normal(size=(n, d)) + 1000,
            "shifted by 1e6": rng.normal(size=(n, d)) + 1e6,
            "pairs 1e-3 apart": np.concatenate([half, half + 1e-3 * rng.normal(size=half.shape)]),
            "pairs 1e-5 apart": np.concatenate([half, half + 1e-5 * rng.normal(size=half.shape)]),
        }.items():
            single = x.astype("float32")
            wide = single.astype("float64")
            found, indices = neighbors(single, 1, method="brute")
            pairs = sum((wide[:, i][:, None] - wide[:, i][None]) ** 2 for i in range(d))
            np.fill_diagonal(pairs, np.inf)
            truth, positive = pairs.min(axis=1), pairs.min(axis=1) > 0
            error = np.abs(np.log(found[positive, 0].astype("float64")) - 0.5 * np.log(truth[positive])).max()
            wrong = np.count_nonzero(pairs[np.arange(n), indices[:, 0]] > truth * (1 + 1e-12))
            false_zeros = np.count_nonzero(found[positive, 0] <= 0)
            print(
                f"accuracy d = {d:2} {name:17}: log r off by {error:.1e}, {wrong} wrong, {false_zeros} false zeros"
            )


def crossover(seconds: float) -> None:
    for d in range(2, 11):
        for n in (500, 1000, 2000, 4000, 8000, 16_000, 32_000):
            x = points(n, d, "float32")
            found = {}
            for method in ("tree", "brute"):
                started = time.process_time()
                repeats = 0
                while time.process_time() - started < seconds / 20 or not repeats:
                    neighbors(x, 3, method=method)
                    repeats += 1
                found[method] = (time.process_time() - started) / repeats / n * 1e6
            faster = min(found, key=lambda name: found[name])
            print(
                f"crossover d = {d:2}, n = {n:6}: tree {found['tree']:7.2f} us, "
                f"brute {found['brute']:7.2f} us: {faster}"
            )


_PEAK = """
import resource, sys, numpy as np
from zlpr.entropy import knn_entropy
n, d, dtype, method = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
x = np.random.default_rng(0).normal(size=(n, d)).astype(dtype)
knn_entropy.value_and_grad(x[:3000], method=method)
import time; before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
knn_entropy.value_and_grad(x, method=method)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(f"memory {n} x {d} {dtype} {method}: value and gradient in {time.perf_counter() - started:.1f} s, "
      f"{peak / 1024:.0f} MiB beyond the data, which are {x.nbytes / 2**20:.0f} MiB; "
      f"all pairs: {n * n * x.itemsize / 2**20:.0f} MiB")
"""


def memory(seconds: float) -> None:
    for n, d, dtype, method in (
        (20_000, 10, "float32", "brute"),
        (20_000, 64, "float32", "auto"),
        (1_000_000, 2, "float64", "auto"),
        (1_000_000, 3, "float64", "auto"),
    ):
        subprocess.run([sys.executable, "-c", _PEAK, str(n), str(d), dtype, method], check=True)


SECTIONS = {f.__name__: f for f in (search, gradient, tree, accuracy, crossover, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line")
    asked = parser.parse_args()
    for name in asked.sections or SECTIONS:
        SECTIONS[name](asked.seconds)


if __name__ == "__main__":
    main()
