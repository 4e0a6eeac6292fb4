"""One optimizer step on NumPy arrays, as multiples of the memory limit and beside PyTorch and optax.

    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/optim_step.py --sizes 1e6 1e7
    python benchmarks/optim_step.py --sizes 5.2e6 --leaves 200 --dtype float64
    python benchmarks/optim_step.py --sizes 1e7 --compiled        # torch.compile and jitted optax as well: minutes
    python benchmarks/optim_step.py --sizes 1e7 --chain           # what a longer chain costs

All contenders take turns in one process and the medians are compared, so that what else the machine does
meets all of them. The limit is what a step cannot avoid: it reads parameters, gradients and two moments and
writes all but the gradients (4 reads, 3 writes). NumPy makes the same traffic in three passes: p += g (2r +
1w), m *= 1 and v *= 1 (1r + 1w each).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from zlpr import optim

Contender = Callable[[], Any]


def shapes(size: int, leaves: int) -> list[int]:
    """One array, or many of mixed sizes that add up to `size`."""
    if leaves == 1:
        return [size]
    weights = np.random.default_rng(1).lognormal(sigma=2.0, size=leaves)
    return [max(1, int(size * w / weights.sum())) for w in weights]


def arrays(sizes: list[int], dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(n).astype(dtype) for n in sizes]


def stream(sizes: list[int], dtype: str) -> Contender:
    p, g, m, v = (arrays([sum(sizes)], dtype)[0] for _ in range(4))

    def passes() -> None:
        np.add(p, g, out=p)
        np.multiply(m, 1.0, out=m)
        np.multiply(v, 1.0, out=v)

    return passes


def ours(transform: optim.Transform, sizes: list[int], dtype: str) -> Contender:
    params, grads = arrays(sizes, dtype), arrays(sizes, dtype)
    kept = [transform.init(params)]

    def step() -> None:
        kept[0] = transform.step(params, grads, kept[0])[1]

    return step


def torch_adam(sizes: list[int], dtype: str, clip: bool = False, **options: bool) -> Contender:
    import torch

    params = [torch.nn.Parameter(torch.from_numpy(a)) for a in arrays(sizes, dtype)]
    for p, g in zip(params, arrays(sizes, dtype), strict=True):
        p.grad = torch.from_numpy(g)
    optimizer = torch.optim.Adam(params, lr=1e-3, **options)

    def step() -> None:
        if clip:
            torch.nn.utils.clip_grad_norm_(params, 1e9)  # the same work as one that clips
        optimizer.step()

    return step


def torch_ours(transform: optim.Transform, sizes: list[int], dtype: str, compiled: bool) -> Contender:
    import torch

    params, grads = ([torch.from_numpy(a) for a in arrays(sizes, dtype)] for _ in range(2))
    state = transform.init(params)
    if compiled:
        state = state._replace(count=torch.tensor(0, dtype=torch.int32))
    advance = torch.compile(transform.step, fullgraph=True) if compiled else transform.step
    kept = [state]

    def step() -> None:
        kept[0] = advance(params, grads, kept[0])[1]

    return step


def jitted(name: str, sizes: list[int], dtype: str) -> Contender:
    """One step of optax, or of ours on JAX arrays, with the old arrays donated."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    params, grads = ([jax.numpy.asarray(a) for a in arrays(sizes, dtype)] for _ in range(2))
    if name == "optax":
        optimizer = optax.adam(1e-3)

        def advance(params: Any, grads: Any, state: Any) -> Any:
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        state = optimizer.init(params)
    else:
        transform = optim.adam(1e-3)
        advance, state = transform.step, transform.init(params)._replace(count=jax.numpy.asarray(0))
    compiled = jax.jit(advance, donate_argnums=(0, 2))
    kept = [(params, state)]

    def step() -> None:
        kept[0] = compiled(kept[0][0], grads, kept[0][1])
        jax.block_until_ready(kept[0])

    return step


def read_of_gradients(sizes: list[int], dtype: str) -> Contender:
    (gradient,) = arrays([sum(sizes)], dtype)
    return lambda: gradient @ gradient


def chains(sizes: list[int], dtype: str) -> dict[str, Contender]:
    clip = optim.clip_by_global_norm(1.0)
    return {
        "stream 4r+3w": stream(sizes, dtype),
        "read of gradients": read_of_gradients(sizes, dtype),
        "adaxw": ours(optim.adaxw(1e-3), sizes, dtype),
        "adaxw, ema": ours(optim.chain(optim.adaxw(1e-3), optim.ema(0.999)), sizes, dtype),
        "clip, adaxw, ema": ours(optim.chain(clip, optim.adaxw(1e-3), optim.ema(0.999)), sizes, dtype),
        "adaxw, clip": ours(optim.chain(optim.adaxw(1e-3), clip), sizes, dtype),
        "amsgrad": ours(optim.amsgrad(1e-3), sizes, dtype),
        "rmsprop": ours(optim.rmsprop(1e-3), sizes, dtype),
        "adafactor": ours(optim.adafactor(), sizes, dtype),
    }


def contenders(sizes: list[int], dtype: str, compiled: bool) -> dict[str, Contender]:
    clip = optim.clip_by_global_norm(1.0)
    found = {
        "stream 4r+3w": stream(sizes, dtype),
        "zlpr adam": ours(optim.adam(1e-3), sizes, dtype),
        "zlpr adax": ours(optim.adax(1e-3), sizes, dtype),
        "zlpr adaxw": ours(optim.adaxw(1e-3), sizes, dtype),
        "zlpr adamw": ours(optim.adamw(1e-3), sizes, dtype),
        "zlpr clip + adam": ours(optim.chain(clip, optim.adam(1e-3)), sizes, dtype),
        "zlpr clip + adax": ours(optim.chain(clip, optim.adax(1e-3)), sizes, dtype),
    }
    if find_spec("torch"):
        found |= {
            "torch single": torch_adam(sizes, dtype, foreach=False, fused=False),
            "torch foreach": torch_adam(sizes, dtype, foreach=True),
            "torch fused": torch_adam(sizes, dtype, fused=True),
            "torch clip + foreach": torch_adam(sizes, dtype, clip=True, foreach=True),
            "zlpr adax on torch": torch_ours(optim.adax(1e-3), sizes, dtype, compiled=False),
        }
    if compiled:
        found |= {
            "zlpr adax torch.compile": torch_ours(optim.adax(1e-3), sizes, dtype, compiled=True),
            "optax adam jit": jitted("optax", sizes, dtype),
            "zlpr adam jit": jitted("zlpr", sizes, dtype),
        }
    return found


def measure(found: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for round_ in range(rounds + 1):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            start = time.perf_counter()
            found[name]()
            times[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in times.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e6, 1e7])
    parser.add_argument("--leaves", type=int, default=1, help="spread the parameters over so many arrays")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compiled", action="store_true", help="torch.compile and jitted optax as well")
    parser.add_argument(
        "--chain", action="store_true", help="chains and the other optimizers instead of the peers"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args()
    if find_spec("torch"):
        import torch

        torch.set_num_threads(options.threads)
    for size in map(int, options.sizes):
        sizes = shapes(size, options.leaves)
        chosen = (
            chains(sizes, options.dtype)
            if options.chain
            else contenders(sizes, options.dtype, options.compiled)
        )
        report(size, options, measure(chosen, options.rounds))


def report(size: int, options: argparse.Namespace, times: dict[str, list[float]]) -> None:
    print(f"{size:.1e} {options.dtype}, {options.leaves} arrays, PyTorch on {options.threads} threads")
    limit = statistics.median(times["stream 4r+3w"])
    for name, values in times.items():
        middle, least = statistics.median(values), min(values)
        print(f"  {name:24s}{middle * 1e3:8.2f} ms  min{least * 1e3:8.2f}  {middle / limit:6.2f} x limit")


if __name__ == "__main__":
    main()
