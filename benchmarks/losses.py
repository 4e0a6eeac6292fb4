"""Value and gradient of every loss beside the same formula under PyTorch's autograd and under jax.jit.

Ratios of medians, interleaved in one run: how many times as long the counterpart takes as our call on NumPy arrays,
on one thread and on as many as --workers says; and as our own call takes on that library's arrays, under jax.jit for
JAX. The counterparts are what users write or call today: the library's own loss where it has one, else its log-sum-exp
and sigmoid functions; on as many threads as they like (--threads for PyTorch). "plain" is the textbook formula with its
gradient by hand in the fewest NumPy calls, in blocks that stay in the cache and with no care for digits: what any array
program pays before it is accurate. In float32, the largest error of a gradient is told in ulps of its row's largest
entry, against float64.

    python benchmarks/losses.py [--threads N] [--workers N] [--seconds S] [LOSS ...]
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from _interleaved import medians

from zlpr import losses
from zlpr.rules import set_workers

SHAPES = ((32, 20), (256, 100), (4096, 1000), (512, 50_000))
Formula = Callable[..., Any]
Gradients = tuple[Any, ...]


class Case(NamedTuple):
    """One loss and its counterparts, each a function of the library and the arrays that gives a scalar."""

    ours: Callable[..., Any]
    inputs: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, ...]]
    torch: Formula
    jax: Formula
    differentiable: int = 1  # so many of the first inputs
    shapes: tuple[tuple[int, int], ...] = SHAPES
    plain: Formula | None = None  # of a block and 1 / rows: the sum of its values, and its gradients
    most: int | None = None  # positives a row, which ours has to be told where it cannot read the labels


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


def softmax_divergence_in_torch(torch: Any, p: Any, q: Any) -> Any:
    functional = torch.nn.functional
    of_p, of_q = functional.log_softmax(p, dim=-1), functional.log_softmax(q, dim=-1)
    return functional.kl_div(of_q, of_p, reduction="batchmean", log_target=True)


def softmax_divergence_in_jax(jax: Any, p: Any, q: Any) -> Any:
    of_p, of_q = jax.nn.log_softmax(p, axis=-1), jax.nn.log_softmax(q, axis=-1)
    return (jax.numpy.exp(of_p) * (of_p - of_q)).sum(-1).mean()


def _normals_in(xp: Any, p: Any, q: Any) -> Any:
    half = p.shape[-1] // 2
    wider, error = p[:, half:] - q[:, half:], p[:, :half] - q[:, :half]
    return 0.5 * (xp.exp(wider) - 1 - wider + error**2 * xp.exp(-q[:, half:])).sum(-1).mean()


def gaussian_divergence_in_torch(torch: Any, p: Any, q: Any) -> Any:
    return _normals_in(torch, p, q)


def gaussian_divergence_in_jax(jax: Any, p: Any, q: Any) -> Any:
    return _normals_in(jax.numpy, p, q)


def kl_in_torch(torch: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1).mean()


def kl_in_jax(jax: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (mean**2 + jax.numpy.exp(log_variance) - 1 - log_variance).sum(-1).mean()


def nll_in_torch(torch: Any, x: Any, mean: Any, log_variance: Any) -> Any:
    return 0.5 * (1.8378770664093453 + log_variance + (x - mean) ** 2 / log_variance.exp()).sum(-1).mean()


def nll_in_jax(jax: Any, x: Any, mean: Any, log_variance: Any) -> Any:
    xp = jax.numpy
    return 0.5 * (1.8378770664093453 + log_variance + (x - mean) ** 2 / xp.exp(log_variance)).sum(-1).mean()


def _exponents(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``s`` of a negative, ``-s`` of a positive class."""
    return (1.0 - 2.0 * y.astype(s.dtype)) * s


def plain_zlpr(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    w = y.astype(s.dtype)
    e = np.exp((1 - 2 * w) * s)
    positives = e * w
    e -= positives
    a, b = 1 + e.sum(axis=1), 1 + positives.sum(axis=1)
    e *= (share / a)[:, None]
    positives *= (share / b)[:, None]
    e -= positives
    return (np.log(a) + np.log(b)).sum(), (e,)


def plain_sigmoid(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    p = np.tanh(0.5 * s)
    p += 1
    p *= 0.5
    values = np.log1p(np.exp(-np.abs(s))) + np.maximum(s, 0) - s * y
    p -= y
    p *= share
    return values.sum(), (p,)


def plain_softmax(s: np.ndarray, t: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    p = np.exp(s - s.max(axis=1, keepdims=True))
    total = p.sum(axis=1, keepdims=True)
    value = np.log(total).sum() - (t * (s - s.max(axis=1, keepdims=True))).sum()
    p *= share / total
    p -= t * share
    return value, (p,)


def plain_softmax_of_class(
    s: np.ndarray, y: np.ndarray, share: float
) -> tuple[float, tuple[np.ndarray, ...]]:
    rows = np.arange(len(s))
    top = s.max(axis=1, keepdims=True)
    p = np.exp(s - top)
    total = p.sum(axis=1, keepdims=True)
    value = np.log(total).sum() - (s[rows, y] - top[:, 0]).sum()
    p *= share / total
    p[rows, y] -= share
    return value, (p,)


def plain_focal(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    z = _exponents(s, y)
    p = 1 / (1 + np.exp(-z))
    cost, balance = -np.log1p(-p), 0.75 - 0.5 * y.astype(s.dtype)
    values = p * p * cost * balance
    slope = p * p * (p + 2 * (1 - p) * cost) * balance * (share * (1 - 2.0 * y))
    return values.sum(), (slope.astype(s.dtype, copy=False),)


def plain_asymmetric(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    w = y.astype(s.dtype)
    p = 1 / (1 + np.exp(-s))
    m = np.maximum(p - 0.05, 0)
    negatives, positives = -np.log(1 - m), -np.log(p)
    values = w * (1 - p) * positives + (1 - w) * m**4 * negatives
    inside = p * (1 - p)
    of_positives = -positives * inside - (1 - p) * (1 - p)
    of_negatives = (4 * m**3 * negatives + m**4 / (1 - m)) * inside
    gradient = w * of_positives + (1 - w) * of_negatives
    gradient *= share
    return values.sum(), (gradient,)


def plain_circle(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    weight = np.where(y, np.maximum(1.25 - s, 0), np.maximum(s + 0.25, 0))
    z = 256 * weight * np.where(y, 0.75 - s, s - 0.25)
    of_sides = [np.where(side, z, -np.inf) for side in (~y, y)]
    tops = [x.max(axis=1, keepdims=True) for x in of_sides]
    terms = [np.exp(x - top) for x, top in zip(of_sides, tops, strict=True)]
    totals = [x.sum(axis=1, keepdims=True) for x in terms]
    pairs = sum(top + np.log(total) for top, total in zip(tops, totals, strict=True))
    pull = share / (1 + np.exp(-pairs))
    gradient = (terms[0] * (pull / totals[0]) - terms[1] * (pull / totals[1])) * (256 * weight)
    return np.logaddexp(0, pairs).sum(), (gradient,)


def plain_lsep(s: np.ndarray, y: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    w = y.astype(s.dtype)
    e = np.exp((1 - 2 * w) * s)
    positives = e * w
    e -= positives
    a, b = e.sum(axis=1), positives.sum(axis=1)
    pull = share / (1 + a * b)
    e *= (pull * b)[:, None]
    positives *= (pull * a)[:, None]
    e -= positives
    return np.log1p(a * b).sum(), (e,)


def plain_divergence(p: np.ndarray, q: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    of_p, of_q, gap = 1 / (1 + np.exp(-p)), 1 / (1 + np.exp(-q)), p - q
    difference = of_p - of_q
    gradient_p = (of_p * (1 - of_p) * gap + difference) * share
    gradient_q = (of_q * (1 - of_q) * gap + difference) * -share
    return (difference * gap).sum(), (gradient_p, gradient_q)


def plain_one_way(p: np.ndarray, q: np.ndarray, share: float) -> tuple[float, tuple[np.ndarray, ...]]:
    e_p, e_q, gap = np.exp(p), np.exp(q), p - q
    of_p, of_q = e_p / (1 + e_p), e_q / (1 + e_q)
    values = np.log1p(e_q) - np.log1p(e_p) + of_p * gap
    return values.sum(), (of_p * (1 - of_p) * gap * share, (of_q - of_p) * share)


def plain_softmax_divergence(
    p: np.ndarray, q: np.ndarray, share: float
) -> tuple[float, tuple[np.ndarray, ...]]:
    logs = []
    for s in (p, q):
        less = s - s.max(axis=1, keepdims=True)
        logs.append(less - np.log(np.exp(less).sum(axis=1, keepdims=True)))
    of_p, of_q, gap = np.exp(logs[0]), np.exp(logs[1]), logs[0] - logs[1]
    values = (of_p * gap).sum(axis=1, keepdims=True)
    return values.sum(), (of_p * (gap - values) * share, (of_q - of_p) * share)


def plain_gaussian_divergence(
    p: np.ndarray, q: np.ndarray, share: float
) -> tuple[float, tuple[np.ndarray, ...]]:
    half = p.shape[1] // 2
    wider, error = p[:, half:] - q[:, half:], p[:, :half] - q[:, :half]
    growth, slope = np.expm1(wider), error * np.exp(-q[:, half:])
    squared = error * slope
    gradient_p = np.hstack((slope, 0.5 * growth)) * share
    gradient_q = -gradient_p
    gradient_q[:, half:] -= (0.5 * share) * squared
    return 0.5 * (growth - wider + squared).sum(), (gradient_p, gradient_q)


def plain_kl(
    mean: np.ndarray, log_variance: np.ndarray, share: float
) -> tuple[float, tuple[np.ndarray, ...]]:
    growth = np.expm1(log_variance)
    values = mean * mean
    values += growth
    values -= log_variance
    growth *= 0.5 * share
    return 0.5 * values.sum(), (mean * share, growth)


def plain_nll(
    x: np.ndarray, mean: np.ndarray, log_variance: np.ndarray, share: float
) -> tuple[float, tuple[np.ndarray, ...]]:
    error, slope = x - mean, np.exp(-log_variance)
    slope *= error
    squared = error * slope
    value = 0.5 * (log_variance + squared).sum() + 0.5 * np.log(2 * np.pi) * x.size
    squared -= 1
    squared *= -0.5 * share
    slope *= share
    return value, (slope, -slope, squared)


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
    "zlpr_loss, hard": Case(
        losses.zlpr_loss.value_and_grad, scores_and_labels, zlpr_in_torch, zlpr_in_jax, plain=plain_zlpr
    ),
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
        losses.sigmoid_cross_entropy.value_and_grad,
        scores_and_labels,
        sigmoid_in_torch,
        sigmoid_in_jax,
        plain=plain_sigmoid,
    ),
    "softmax_cross_entropy, classes": Case(
        losses.softmax_cross_entropy.value_and_grad,
        scores_and_class,
        softmax_in_torch,
        softmax_of_class_in_jax,
        plain=plain_softmax_of_class,
    ),
    "softmax_cross_entropy, distributions": Case(
        losses.softmax_cross_entropy.value_and_grad,
        scores_and_distribution,
        softmax_in_torch,
        softmax_in_jax,
        plain=plain_softmax,
    ),
    "focal_loss": Case(balanced_focal, scores_and_labels, focal_in_torch, focal_in_jax, plain=plain_focal),
    "asymmetric_loss": Case(
        losses.asymmetric_loss.value_and_grad,
        scores_and_labels,
        asymmetric_in_torch,
        asymmetric_in_jax,
        plain=plain_asymmetric,
    ),
    "lsep_loss": Case(
        losses.lsep_loss.value_and_grad, scores_and_labels, lsep_in_torch, lsep_in_jax, plain=plain_lsep
    ),
    "circle_loss": Case(
        losses.circle_loss.value_and_grad,
        similarities_and_labels,
        circle_in_torch,
        circle_in_jax,
        plain=plain_circle,
    ),
    "k_subset_cross_entropy, 5 positives": Case(
        losses.k_subset_cross_entropy.value_and_grad,
        scores_and_5_labels,
        k_subset_in_torch,
        k_subset_in_jax,
        shapes=((32, 20), (256, 100), (256, 1000)),
        most=5,
    ),
    "zlpr_divergence, symmetric": Case(
        losses.zlpr_divergence.value_and_grad,
        two_arrays,
        divergence_in_torch,
        divergence_in_jax,
        2,
        plain=plain_divergence,
    ),
    "zlpr_divergence, one-way": Case(
        one_way, two_arrays, one_way_in_torch, one_way_in_jax, 2, plain=plain_one_way
    ),
    "softmax_divergence": Case(
        losses.softmax_divergence.value_and_grad,
        two_arrays,
        softmax_divergence_in_torch,
        softmax_divergence_in_jax,
        2,
        plain=plain_softmax_divergence,
    ),
    "gaussian_divergence": Case(
        losses.gaussian_divergence.value_and_grad,
        two_arrays,
        gaussian_divergence_in_torch,
        gaussian_divergence_in_jax,
        2,
        plain=plain_gaussian_divergence,
    ),
    "gaussian_kl": Case(
        losses.gaussian_kl.value_and_grad, two_arrays, kl_in_torch, kl_in_jax, 2, plain=plain_kl
    ),
    "gaussian_nll": Case(
        losses.gaussian_nll.value_and_grad, three_arrays, nll_in_torch, nll_in_jax, 3, plain=plain_nll
    ),
}


def ours_on_torch(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    import torch

    return ours(case, tuple(torch.from_numpy(x.copy()) for x in arrays), 1)


def of_torch(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    import torch

    tensors = [torch.from_numpy(x.copy()) for x in arrays]
    leaves = [x.requires_grad_(True) for x in tensors[: case.differentiable]]

    def call() -> Gradients:
        for leaf in leaves:
            leaf.grad = None
        case.torch(torch, *tensors).backward()
        return tuple(leaf.grad for leaf in leaves)

    return call


def ours_under_jit(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    argnums = tuple(range(case.differentiable))
    limit = {} if case.most is None else {"max_positives": case.most}
    return _jitted(lambda *a: case.ours(*a, argnums=argnums, **limit), arrays)


def of_jax(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    import jax

    argnums = tuple(range(case.differentiable))
    return _jitted(jax.value_and_grad(lambda *a: case.jax(jax, *a), argnums=argnums), arrays)


def _jitted(both: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    import jax

    jax.config.update("jax_enable_x64", True)
    compiled, on_device = jax.jit(both), [jax.numpy.asarray(x) for x in arrays]
    return lambda: jax.block_until_ready(compiled(*on_device))[1]


_BLOCK_BYTES = 1 << 19


def in_plain_numpy(case: Case, arrays: tuple[np.ndarray, ...]) -> Callable[[], Gradients]:
    lead = arrays[0]
    step = max(1, _BLOCK_BYTES // lead[:1].nbytes)

    def call() -> Gradients:
        gradients = tuple(np.empty_like(x) for x in arrays[: case.differentiable])
        value = 0.0
        with np.errstate(all="ignore"):
            for start in range(0, len(lead), step):
                block = slice(start, start + step)
                part, parts = case.plain(*(x[block] for x in arrays), lead.dtype.type(1 / len(lead)))
                value += part
                for whole, found in zip(gradients, parts, strict=True):
                    whole[block] = found
        return gradients

    return call


def ours(case: Case, arrays: tuple[np.ndarray, ...], workers: int) -> Callable[[], Gradients]:
    def call() -> Gradients:
        with set_workers(workers):
            return case.ours(*arrays, argnums=tuple(range(case.differentiable)))[1]

    return call


def contenders(
    case: Case, arrays: tuple[np.ndarray, ...], workers: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    into = np.empty_like(arrays[0])
    yield "exp", lambda: np.exp(arrays[0], out=into)
    yield "ours", ours(case, arrays, 1)
    yield "workers", ours(case, arrays, workers)
    if case.plain:
        yield "plain", in_plain_numpy(case, arrays)
    for name, make, ours_there in (("torch", of_torch, ours_on_torch), ("jax", of_jax, ours_under_jit)):
        if importlib.util.find_spec(name):
            yield name, make(case, arrays)
            yield f"ours on {name}", ours_there(case, arrays)


def worst_error(gradients: Gradients, exact: Gradients) -> float:
    """Of the gradients in float32, in ulps of the largest entry of the row."""
    worst = []
    for found, right in zip(gradients, exact, strict=True):
        ulp = np.spacing(np.abs(right).max(axis=-1, keepdims=True).astype(np.float32))
        worst.append((np.abs(np.asarray(found) - right) / ulp).max())
    return float(np.max(worst))  # nan if one is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="only those whose name holds this")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--workers", type=int, default=2, help="of ours, beside one")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each loss, shape and dtype")
    parser.add_argument("--digits", action="store_true", help="also measure errors in float32")
    asked = parser.parse_args()
    for name in ("torch", "jax"):
        if not importlib.util.find_spec(name):
            print(f"{name}: not run (not installed)")
    if asked.threads and importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(asked.threads)
    for name, case in CASES.items():
        if asked.losses and not any(part in name for part in asked.losses):
            continue
        print(f"\n{name}")
        for shape in case.shapes:
            for dtype in ("float32", "float64"):
                report(case, shape, dtype, asked)


def report(case: Case, shape: tuple[int, int], dtype: str, asked: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    arrays = tuple(x.astype(dtype) if x.dtype.kind == "f" else x for x in case.inputs(rng, shape))
    calls = dict(contenders(case, arrays, asked.workers))
    found = medians(calls, asked.seconds)
    of_one, of_several = found["ours"], found["workers"]
    peers = [name for name in ("torch", "jax") if name in found]
    on_numpy = "".join(
        f"  {k} {found[k] / of_one:5.2f} {found[k] / of_several:5.2f}"
        for k in ("plain", *peers)
        if k in found
    )
    on_theirs = "".join(f"  {k} {found[k] / found[f'ours on {k}']:5.2f}" for k in peers)
    print(
        f"  {shape!s:13} {dtype}: {of_one * 1e6:10.1f} us, {of_one / found['exp']:5.1f} exp passes, "
        f"{asked.workers} workers {of_one / of_several:4.2f} x as fast; times ours, times ours with workers:"
        f"{on_numpy}; times ours on their arrays:{on_theirs}",
        flush=True,
    )
    if asked.digits and dtype == "float32":
        wide = tuple(x.astype("float64") if x.dtype.kind == "f" else x for x in arrays)
        exact = ours(case, wide, 1)()
        errors = (f"{k} {worst_error(calls[k](), exact):.3g}" for k in calls if k not in ("exp", "workers"))
        print(f"      largest error of a gradient, in ulps: {', '.join(errors)}", flush=True)


if __name__ == "__main__":
    main()
