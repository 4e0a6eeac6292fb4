"""A training step of the entropic autoencoder beside the same one in eager PyTorch with autograd.

The same weights, the same batch, the same loss (squared error less the entropy from nearest neighbours of
batch-normalised codes), float32, Adam. PyTorch's side is written as its users write it: ``torch.nn`` modules,
``torch.cdist`` for the neighbours, ``backward``, ``torch.optim.Adam``. Ours runs on NumPy arrays and on PyTorch
tensors. Losses of the first steps are compared before anything is timed.

``python benchmarks/autoencoder.py [--data img_mnist.npz]``; without a file the rows are random, of MNIST's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _interleaved import medians

from zlpr.models import EntropicAutoencoder
from zlpr.models._autoencoder import Autoencoder

ROWS, FEATURES = 2000, 784  # without a file


class TorchAutoencoder(torch.nn.Module):
    """The model of `EntropicAutoencoder`, with its weights."""

    def __init__(self, params: dict[str, Any], latent_dim: int, activation: str) -> None:
        super().__init__()
        act = {"gelu": torch.nn.GELU, "relu": torch.nn.ReLU}[activation]
        self.encoder = torch.nn.Sequential(
            *_layers(params["encoder"], act), torch.nn.BatchNorm1d(latent_dim, eps=1e-8, affine=False)
        )
        self.decoder = torch.nn.Sequential(*_layers(params["decoder"], act))

    def loss(self, x: torch.Tensor, weight: float, k: int) -> torch.Tensor:
        z = self.encoder(x)
        error = (self.decoder(z) - x).square().sum(1).mean()
        n, d = z.shape
        radii = torch.cdist(z, z).topk(k + 1, dim=1, largest=False).values[:, k]
        constants = d / 2 * np.log(np.pi) - torch.lgamma(torch.tensor(d / 2 + 1.0))
        psi = torch.digamma(torch.tensor([float(n), float(k)]))
        entropy = d * radii.clamp(min=1e-6).log().mean() + constants + psi[0] - psi[1]
        return error - weight * entropy


def _layers(params: Any, act: type[torch.nn.Module]) -> list[torch.nn.Module]:
    layers: list[torch.nn.Module] = []
    for i, own in enumerate(params):
        linear = torch.nn.Linear(*own["weight"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(own["weight"].T))
            linear.bias.copy_(torch.tensor(own["bias"]))
        layers += [act(), linear] if i else [linear]
    return layers


def our_step(model: Autoencoder, X: Any, batch: Any) -> Callable[[], float]:
    """One step from a model's initial parameters, on the library of X."""
    model.n_features_in_ = X.shape[1]
    params = model._initial_params(X, np.random.default_rng(0))
    objective, optimizer = model._objective(), model._transform()
    state = optimizer.init(params)

    def step() -> float:
        nonlocal params, state
        loss, gradients = objective(params, batch)
        params, state = optimizer.step(params, gradients, state)
        return float(loss)

    return step


def torch_step(model: EntropicAutoencoder, X: np.ndarray, batch: torch.Tensor) -> Callable[[], float]:
    model.n_features_in_ = X.shape[1]
    net = TorchAutoencoder(
        model._initial_params(X, np.random.default_rng(0)), model.latent_dim, model.activation
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = net.loss(batch, model.entropy_weight, model.k)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help=".npz with images of 0 to 255 under X or X_train10k")
    parser.add_argument("--batch-size", type=int, default=200)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--hidden", type=int, nargs="*", default=None)
    parser.add_argument("--activation", default="gelu")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    X = rows(options.data)
    hidden = {} if options.hidden is None else {"hidden_layer_sizes": tuple(options.hidden)}
    model = EntropicAutoencoder(options.latent_dim, activation=options.activation, **hidden)
    batch = X[: options.batch_size].copy()
    steps = {
        "zlpr on NumPy": our_step(model, X, batch),
        "zlpr on PyTorch": our_step(model, torch.tensor(X), torch.tensor(batch)),
        "PyTorch, autograd": torch_step(model, X, torch.tensor(batch)),
    }
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
    for name, values in losses.items():
        print(f"{name}: losses {', '.join(f'{v:.4f}' for v in values)}")
        np.testing.assert_allclose(values, losses["PyTorch, autograd"], rtol=1e-3)
    times = medians(steps, seconds=options.seconds)
    base = times["PyTorch, autograd"]
    print(
        f"a step of {len(batch)} rows of {X.shape[1]} features, hidden {model.hidden_layer_sizes}, latent "
        f"{model.latent_dim}, {model.activation}, {torch.get_num_threads()} threads of PyTorch:"
    )
    for name, seconds in times.items():
        print(f"  {name:18} {seconds * 1e3:7.2f} ms  {seconds / base:5.2f} x")


def rows(path: Path | None) -> np.ndarray:
    """Images as rows in [0, 1], float32."""
    if path is None:
        return np.random.default_rng(0).uniform(size=(ROWS, FEATURES)).astype(np.float32)
    with np.load(path, allow_pickle=False) as data:
        X = next(data[name] for name in ("X", "X_train10k") if name in data)
    return np.ascontiguousarray(X.reshape(len(X), -1)[:ROWS], dtype=np.float32) / 255.0


if __name__ == "__main__":
    main()
