"""Value and gradient of every loss beside the same formula under PyTorch's autograd and under jax.jit.

Ratios of medians, interleaved in one run: how many times as long the counterpart takes as our call on NumPy arrays.
The counterparts are what users write or call today: the library's own loss where it has one, else its log-sum-exp
and sigmoid functions. Ours runs on one thread; theirs on as many as they like (--threads for PyTorch).

    python benchmarks/losses.py [--threads N] [--seconds S] [LOSS ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from _interleaved import medians

from zlpr import losses

SHAPES = ((32, 20), (256, 100), (4096, 1000), (512, 50_000))
Formula = Callable[..., Any]


class Case(NamedTuple):
    """One loss and its counterparts, each a function of the library and the arrays that gives a scalar."""

    ours: Callable[..., Any]
    inputs: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, ...]]
    torch: Formula
    jax: Formula
    differentiable: int = 1  # so many of the first inputs
    shapes: tuple[tuple[int, int], ...] = SHAPES


def scores_and_labels(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape) * 3, rng.random(shape) < 0.05


def similarities_and_labels(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return np.tanh(rng.normal(size=shape)), rng.random(shape) < 0.05


def scores_and_soft(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape) * 3, rng.random(shape)


def scores_and_positives(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape) * 3, rng.integers(0, shape[1], (shape[0], 5))


def scores_and_5_labels(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    scores, labels = rng.normal(size=shape) * 3, np.zeros(shape, dtype=bool)
    np.put_along_axis(labels, np.argsort(rng.random(shape), axis=1)[:, :5], True, axis=1)
    return scores, labels


def scores_and_class(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape) * 3, rng.integers(0, shape[1], shape[0])


def scores_and_distribution(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    weights = rng.random(shape)
    return rng.normal(size=shape) * 3, weights / weights.sum(axis=1, keepdims=True)


def two_arrays(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape), rng.normal(size=shape)


def three_arrays(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, ...]:
    return rng.normal(size=shape), rng.normal(size=shape), rng.normal(size=shape)


def zlpr_in_torch(torch: Any, s: Any, y: Any) -> Any:
    y = y.to(s.dtype)
    signed, zeros = (1 - 2 * y) * s, torch.zeros_like(s[:, :1])
    negatives = torch.cat([signed - y * 1e12, zeros], dim=-1)
    positives = torch.cat([signed - (1 - y) * 1e12, zeros], dim=-1)
    return (torch.logsumexp(negatives, dim=-1) + torch.logsumexp(positives, dim=-1)).mean()


def zlpr_in_jax(jax: Any, s: Any, y: Any) -> Any:
    xp = jax.numpy
    y = y.astype(s.dtype)
    signed, zeros = (1 - 2 * y) * s, xp.zeros_like(s[:, :1])
    negatives = xp.concatenate([signed - y * 1e12, zeros], axis=-1)
    positives = xp.concatenate([signed - (1 - y) * 1e12, zeros], axis=-1)
    return (jax.nn.logsumexp(negatives, axis=-1) + jax.nn.logsumexp(positives, axis=-1)).mean()


def soft_zlpr_in_torch(torch: Any, s: Any, t: Any) -> Any:
    zeros = torch.zeros_like(s[:, :1])
    negatives = torch.cat([s + torch.log1p(-t), zeros], dim=-1)
    positives = torch.cat([-s + torch.log(t), zeros], dim=-1)
    return (torch.logsumexp(negatives, dim=-1) + torch.logsumexp(positives, dim=-1)).mean()


def soft_zlpr_in_jax(jax: Any, s: Any, t: Any) -> Any:
    xp = jax.numpy
    zeros = xp.zeros_like(s[:, :1])
    negatives = xp.concatenate([s + xp.log1p(-t), zeros], axis=-1)
    positives = xp.concatenate([-s + xp.log(t), zeros], axis=-1)
    return (jax.nn.logsumexp(negatives, axis=-1) + jax.nn.logsumexp(positives, axis=-1)).mean()


def sparse_zlpr_in_torch(torch: Any, s: Any, positives: Any) -> Any:
    """The sum of all classes less the positives, as it circulates."""
    zeros = torch.zeros_like(s[:, :1])
    with_zero = torch.cat([s, zeros], dim=-1)
    chosen = torch.gather(with_zero, -1, positives)
    positive = torch.logsumexp(torch.cat([-chosen, zeros], dim=-1), dim=-1)
    every, some = torch.logsumexp(with_zero, dim=-1), torch.logsumexp(chosen, dim=-1)
    return (positive + every + torch.log(torch.clamp(1 - torch.exp(some - every), 1e-7, 1))).mean()


def sparse_zlpr_in_jax(jax: Any, s: Any, positives: Any) -> Any:
    xp = jax.numpy
    zeros = xp.zeros_like(s[:, :1])
    with_zero = xp.concatenate([s, zeros], axis=-1)
    chosen = xp.take_along_axis(with_zero, positives, axis=-1)
    positive = jax.nn.logsumexp(xp.concatenate([-chosen, zeros], axis=-1), axis=-1)
    every, some = jax.nn.logsumexp(with_zero, axis=-1), jax.nn.logsumexp(chosen, axis=-1)
    return (positive + every + xp.log(xp.clip(1 - xp.exp(some - every), 1e-7, 1))).mean()


def sigmoid_in_torch(torch: Any, s: Any, y: Any) -> Any:
    loss = torch.nn.functional.binary_cross_entropy_with_logits(s, y.to(s.dtype), reduction="none")
    return loss.sum(-1).mean()


def sigmoid_in_jax(jax: Any, s: Any, y: Any) -> Any:
    y = y.astype(s.dtype)
    return -(y * jax.nn.log_sigmoid(s) + (1 - y) * jax.nn.log_sigmoid(-s)).sum(-1).mean()


def softmax_in_torch(torch: Any, s: Any, t: Any) -> Any:
    return torch.nn.functional.cross_entropy(s, t)


def softmax_of_class_in_jax(jax: Any, s: Any, y: Any) -> Any:
    chosen = jax.numpy.take_along_axis(s, y[:, None], axis=-1)[:, 0]
    return (jax.nn.logsumexp(s, axis=-1) - chosen).mean()


def softmax_in_jax(jax: Any, s: Any, t: Any) -> Any:
    return -(t * jax.nn.log_softmax(s, axis=-1)).sum(-1).mean()


def focal_in_torch(torch: Any, s: Any, y: Any) -> Any:
    """torchvision.ops.sigmoid_focal_loss, with its defaults."""
    y = y.to(s.dtype)
    p = torch.sigmoid(s)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(s, y, reduction="none")
    right = p * y + (1 - p) * (1 - y)
    return (cross_entropy * (1 - right) ** 2 * (0.25 * y + 0.75 * (1 - y))).sum(-1).mean()


def focal_in_jax(jax: Any, s: Any, y: Any) -> Any:
    """optax.losses.sigmoid_focal_loss, with an alpha of 0.25."""
    y = y.astype(s.dtype)
    p = jax.nn.sigmoid(s)
    cross_entropy = -(y * jax.nn.log_sigmoid(s) + (1 - y) * jax.nn.log_sigmoid(-s))
    right = p * y + (1 - p) * (1 - y)
    return (cross_entropy * (1 - right) ** 2 * (0.25 * y + 0.75 * (1 - y))).sum(-1).mean()


def asymmetric_in_torch(torch: Any, s: Any, y: Any) -> Any:
    """The authors' AsymmetricLoss, the gradient through its powers."""
    y = y.to(s.dtype)
    p = torch.sigmoid(s)
    negative = (1 - p + 0.05).clamp(max=1)
    cost = y * torch.log(p.clamp(min=1e-8)) + (1 - y) * torch.log(negative.clamp(min=1e-8))
    return -(cost * (1 - p * y - negative * (1 - y)) ** (y + 4 * (1 - y))).sum(-1).mean()


def asymmetric_in_jax(jax: Any, s: Any, y: Any) -> Any:
    xp = jax.numpy
    y = y.astype(s.dtype)
    p = jax.nn.sigmoid(s)
    negative = xp.minimum(1 - p + 0.05, 1)
    cost = y * xp.log(xp.maximum(p, 1e-8)) + (1 - y) * xp.log(xp.maximum(negative, 1e-8))
    return -(cost * (1 - p * y - negative * (1 - y)) ** (y + 4 * (1 - y))).sum(-1).mean()


def pairs_in_torch(torch: Any, of_negatives: Any, of_positives: Any, y: Any) -> Any:
    negatives = torch.logsumexp(of_negatives - y * 1e12, dim=-1)
    positives = torch.logsumexp(of_positives - (1 - y) * 1e12, dim=-1)
    return torch.nn.functional.softplus(negatives + positives).mean()


def pairs_in_jax(jax: Any, of_negatives: Any, of_positives: Any, y: Any) -> Any:
    negatives = jax.nn.logsumexp(of_negatives - y * 1e12, axis=-1)
    positives = jax.nn.logsumexp(of_positives - (1 - y) * 1e12, axis=-1)
    return jax.nn.softplus(negatives + positives).mean()


def lsep_in_torch(torch: Any, s: Any, y: Any) -> Any:
    return pairs_in_torch(torch, s, -s, y.to(s.dtype))


def lsep_in_jax(jax: Any, s: Any, y: Any) -> Any:
    return pairs_in_jax(jax, s, -s, y.astype(s.dtype))


def circle_in_torch(torch: Any, s: Any, y: Any) -> Any:
    of_negatives = 256.0 * torch.relu(s.detach() + 0.25) * (s - 0.25)
    of_positives = -256.0 * torch.relu(1.25 - s.detach()) * (s - 0.75)
    return pairs_in_torch(torch, of_negatives, of_positives, y.to(s.dtype))


def circle_in_jax(jax: Any, s: Any, y: Any) -> Any:
    held = jax.lax.stop_gradient(s)
    of_negatives = 256.0 * jax.nn.relu(held + 0.25) * (s - 0.25)
    of_positives = -256.0 * jax.nn.relu(1.25 - held) * (s - 0.75)
    return pairs_in_jax(jax, of_negatives, of_positives, y.astype(s.dtype))


def divergence_in_torch(torch: Any, p: Any, q: Any) -> Any:
    return ((torch.sigmoid(p) - torch.sigmoid(q)) * (p - q)).sum(-1).mean()


def divergence_in_jax(jax: Any, p: Any, q: Any) -> Any:
    return ((jax.nn.sigmoid(p) - jax.nn.sigmoid(q)) * (p - q)).sum(-1).mean()


def one_way_in_torch(torch: Any, p: Any, q: Any) -> Any:
    softplus = torch.nn.functional.softplus
    return (softplus(q) - softplus(p) - torch.sigmoid(p) * (q - p)).sum(-1).mean()


def one_way_in_jax(jax: Any, p: Any, q: Any) -> Any:
    softplus = jax.nn.softplus
    return (softplus(q) - softplus(p) - jax.nn.sigmoid(p) * (q - p)).sum(-1).mean()


def kl_in_torch(torch: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1).mean()


def kl_in_jax(jax: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (mean**2 + jax.numpy.exp(log_variance) - 1 - log_variance).sum(-1).mean()


def nll_in_torch(torch: Any, x: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (1.8378770664093453 + log_variance + (x - mean) ** 2 / log_variance.exp()).sum(-1).mean()


def nll_in_jax(jax: Any, x: Any, mean: Any, log_variance: Any) -> Any:
    xp = jax.numpy
    return 0.5 * (1.8378770664093453 + log_variance + (x - mean) ** 2 / xp.exp(log_variance)).sum(-1).mean()


def balanced_focal(*args: Any, **opts: Any) -> Any:
    return losses.focal_loss.value_and_grad(*args, alpha=0.25, **opts)


_NEVER = -1e30  # a log, far from where autograd makes nan of infinities


def k_subset_in_torch(torch: Any, s: Any, y: Any) -> Any:
    """The logs of the sums over 0 to 5 classes of the first 1, 2, ... ones."""
    table = torch.full((s.shape[0], 6), _NEVER, dtype=s.dtype)
    table[:, 0] = 0.0
    never = table[:, 5:]
    for i in range(s.shape[1]):
        with_class = torch.cat([never, table[:, :-1]], dim=-1) + s[:, i : i + 1]
        table = torch.logaddexp(table, with_class)
    return (table[:, 5] - (s * y).sum(-1)).mean()


def k_subset_in_jax(jax: Any, s: Any, y: Any) -> Any:
    xp = jax.numpy
    never = xp.full((s.shape[0], 1), _NEVER, dtype=s.dtype)
    start = xp.concatenate([xp.zeros_like(never), xp.repeat(never, 5, axis=1)], axis=1)

    def step(table: Any, score: Any) -> tuple[Any, None]:
        with_class = xp.concatenate([never, table[:, :-1]], axis=1) + score[:, None]
        return xp.logaddexp(table, with_class), None

    table, _ = jax.lax.scan(step, start, s.T)
    return (table[:, 5] - (s * y).sum(-1)).mean()


def one_way(*args: Any, **opts: Any) -> Any:
    return losses.zlpr_divergence.value_and_grad(*args, symmetric=False, **opts)


CASES = {
    "zlpr_loss, hard": Case(losses.zlpr_loss.value_and_grad, scores_and_labels, zlpr_in_torch, zlpr_in_jax),
    "zlpr_loss, soft": Case(
        losses.zlpr_loss.value_and_grad, scores_and_soft, soft_zlpr_in_torch, soft_zlpr_in_jax
    ),
    "sparse_zlpr_loss, 5 positives": Case(
        losses.sparse_zlpr_loss.value_and_grad,
        scores_and_positives,
        sparse_zlpr_in_torch,
        sparse_zlpr_in_jax,
        shapes=(*SHAPES, (32, 1_000_000)),
    ),
    "sigmoid_cross_entropy": Case(
        losses.sigmoid_cross_entropy.value_and_grad, scores_and_labels, sigmoid_in_torch, sigmoid_in_jax
    ),
    "softmax_cross_entropy, classes": Case(
        losses.softmax_cross_entropy.value_and_grad,
        scores_and_class,
        softmax_in_torch,
        softmax_of_class_in_jax,
    ),
    "softmax_cross_entropy, distributions": Case(
        losses.softmax_cross_entropy.value_and_grad, scores_and_distribution, softmax_in_torch, softmax_in_jax
    ),
    "focal_loss": Case(balanced_focal, scores_and_labels, focal_in_torch, focal_in_jax),
    "asymmetric_loss": Case(
        losses.asymmetric_loss.value_and_grad, scores_and_labels, asymmetric_in_torch, asymmetric_in_jax
    ),
    "lsep_loss": Case(losses.lsep_loss.value_and_grad, scores_and_labels, lsep_in_torch, lsep_in_jax),
    "circle_loss": Case(
        losses.circle_loss.value_and_grad, similarities_and_labels, circle_in_torch, circle_in_jax
    ),
    "k_subset_cross_entropy, 5 positives": Case(
        losses.k_subset_cross_entropy.value_and_grad,
        scores_and_5_labels,
        k_subset_in_torch,
        k_subset_in_jax,
        shapes=((32, 20), (256, 100), (256, 1000)),
    ),
    "zlpr_divergence, symmetric": Case(
        losses.zlpr_divergence.value_and_grad, two_arrays, divergence_in_torch, divergence_in_jax, 2
    ),
    "zlpr_divergence, one-way": Case(one_way, two_arrays, one_way_in_torch, one_way_in_jax, 2),
    "gaussian_kl": Case(losses.gaussian_kl.value_and_grad, two_arrays, kl_in_torch, kl_in_jax, 2),
    "gaussian_nll": Case(losses.gaussian_nll.value_and_grad, three_arrays, nll_in_torch, nll_in_jax, 3),
}


def of_torch(case: Case, arrays: tuple[np.ndarray, ...], threads: int | None) -> Callable[[], object]:
    import torch

    if threads:
        torch.set_num_threads(threads)
    tensors = [torch.from_numpy(x.copy()) for x in arrays]
    leaves = [x.requires_grad_(True) for x in tensors[: case.differentiable]]

    def call() -> object:
        for leaf in leaves:
            leaf.grad = None
        case.torch(torch, *tensors).backward()
        return leaves[0].grad

    return call


def of_jax(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], object]:
    import jax

    jax.config.update("jax_enable_x64", True)
    both = jax.jit(
        jax.value_and_grad(lambda *a: case.jax(jax, *a), argnums=tuple(range(case.differentiable)))
    )
    on_device = [jax.numpy.asarray(x) for x in arrays]
    return lambda: jax.block_until_ready(both(*on_device))


def contenders(
    case: Case, shape: tuple[int, int], dtype: str, threads: int | None
) -> Iterator[tuple[str, Callable[[], object]]]:
    rng = np.random.default_rng(0)
    arrays = tuple(x.astype(dtype) if x.dtype.kind == "f" else x for x in case.inputs(rng, shape))
    into = np.empty_like(arrays[0])
    yield "exp", lambda: np.exp(arrays[0], out=into)
    yield "ours", lambda: case.ours(*arrays, argnums=tuple(range(case.differentiable)))
    for name, make in (
        ("torch", lambda: of_torch(case, arrays, threads)),
        ("jax", lambda: of_jax(case, arrays)),
    ):
        try:
            yield name, make()
        except ImportError:
            print(f"{name}: not run (not installed)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="only those whose name holds this")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each loss, shape and dtype")
    asked = parser.parse_args()
    for name, case in CASES.items():
        if asked.losses and not any(part in name for part in asked.losses):
            continue
        print(f"\n{name}")
        for shape in case.shapes:
            for dtype in ("float32", "float64"):
                found = medians(dict(contenders(case, shape, dtype, asked.threads)), asked.seconds)
                others = "".join(
                    f"  {k} {found[k] / found['ours']:6.2f} x ours" for k in found if k not in ("ours", "exp")
                )
                print(
                    f"  {shape!s:13} {dtype}: {found['ours'] * 1e6:11.1f} us, "
                    f"{found['ours'] / found['exp']:6.2f} exp passes;{others}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
