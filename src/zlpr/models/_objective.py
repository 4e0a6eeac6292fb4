"""What `MultilabelClassifier` minimises: the loss of a batch and the regularisers of `zlpr.perturb`, with gradients.

Perturbations are constants to the gradients, and so is the prediction that virtual adversarial training keeps. Random
directions come with the batch, so that the whole objective can be compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import optree

from zlpr import _array, losses, nn, perturb
from zlpr._array import Array
from zlpr.models._estimator import hidden_layers

LOSSES = {"zlpr": losses.zlpr_loss, "sigmoid": losses.sigmoid_cross_entropy}

Params = Any
Term = tuple[Array, Params]
"""A value and its gradients with respect to the parameters."""


@functools.cache  # one rule for equal networks, so that JAX compiles it once
def network(activation: str, hidden: int) -> nn.Sequential:
    """A perceptron with that many hidden layers."""
    return nn.sequential(*hidden_layers(activation, hidden), nn.dense)


@dataclass(frozen=True)
class Regularisers:
    """What is added to the loss; by default nothing."""

    adversarial: str | None = None
    epsilon: float = 0.0
    weight: float = 0.0
    xi: float | None = None
    power_iterations: int = 0
    gradient_penalty: float = 0.0


@dataclass(frozen=True)
class Objective:
    """The regularised mean loss of a batch and its gradients; equal ones are compiled once."""

    network: nn.Sequential
    loss: str
    threshold: float
    label_smoothing: float
    alpha: float
    added: Regularisers = Regularisers()

    def plain(self) -> Objective:
        """What is watched on held-out rows: the loss without the regularisers that perturb."""
        return replace(self, added=Regularisers())

    def __call__(self, params: Params, x: Array, targets: Array, *others: Array) -> Term:
        """The value and the gradients.

        The others are the weights of the rows in the loss, last; for virtual adversarial training the first directions
        before them; and the weights of all rows in its term between the two, where some rows are unlabelled.
        """
        *drawn, weights = others
        wrt = ("params", "x") if self.added.adversarial == "fgm" else ("params",)
        value, (gradients, *slope) = self._loss(params, x, targets, weights, wrt)
        for weight, (term, slopes) in self._terms(params, x, targets, weights, drawn or slope):
            value = value + weight * term
            gradients = optree.tree_map(functools.partial(_plus, weight), gradients, slopes)
        return value, gradients

    def _terms(
        self, params: Params, x: Array, targets: Array, weights: Array, towards: list[Array]
    ) -> Iterator[tuple[float, Term]]:
        """What is added, with its weights."""
        added = self.added
        if self.alpha:
            yield self.alpha, _half_of_squares(params)
        if added.gradient_penalty:
            yield added.gradient_penalty, self._penalty(params, x, targets, weights)
        if added.adversarial == "fgm":
            yield added.weight, self._worst_case(params, x, targets, weights, towards[0])
        if added.adversarial == "vat":
            everyone = towards[1] if len(towards) > 1 else weights
            yield added.weight, self._consistency(params, x, towards[0], everyone)

    def _loss(self, params: Params, x: Array, targets: Array, weights: Array, wrt: Any) -> tuple[Array, Any]:
        scores, pullback = self.network.vjp(params, x, argnums=wrt)
        loss, dscores = LOSSES[self.loss].value_and_grad(scores, targets, **self._options(weights))
        return loss, pullback(dscores)

    def _options(self, weights: Array) -> dict[str, Any]:
        shifted = {"threshold": self.threshold} if self.loss == "zlpr" else {}
        return {"sample_weight": weights, "label_smoothing": self.label_smoothing, **shifted}

    def _penalty(self, params: Params, x: Array, targets: Array, weights: Array) -> Term:
        """Half the squared slope of the loss in the input, the mean over rows."""
        loss = perturb.NetworkObjective(
            self.network, params, LOSSES[self.loss], targets, **self._options(weights)
        )
        penalty, (slopes, _) = perturb.gradient_penalty(loss, x, reduction="mean", sample_weight=weights)
        return penalty, slopes

    def _worst_case(self, params: Params, x: Array, targets: Array, weights: Array, slope: Array) -> Term:
        """The loss at the inputs moved by the fast gradient method, along a slope that is known."""
        r = perturb.fgm(lambda _: (None, slope), x, epsilon=self.added.epsilon)
        return self._loss(params, x + r, targets, weights, "params")

    def _consistency(self, params: Params, x: Array, direction: Array, weights: Array) -> Term:
        """The divergence of the label probabilities at the inputs moved to where they change most."""
        added = self.added
        exact = {"forward_jvp": perturb.NetworkObjective(self.network, params).forward_jvp}
        r = perturb.virtual_adversarial(
            losses.zlpr_divergence,
            self._forward(params, "x"),
            x,
            epsilon=added.epsilon,
            n_iter=added.power_iterations,
            direction=direction,
            symmetric=False,
            **(exact if added.xi is None else {"xi": added.xi}),
        )
        return perturb.consistency(
            losses.zlpr_divergence,
            self._forward(params, "params"),
            x,
            r,
            symmetric=False,
            sample_weight=weights,
        )

    def _forward(self, params: Params, wrt: str) -> Callable[[Array], tuple[Array, Any]]:
        """The network as a function of its input, whose scores are measured from the threshold of the loss."""
        origin = self.threshold if self.loss == "zlpr" else 0.0

        def forward(x: Array) -> tuple[Array, Any]:
            scores, pullback = self.network.vjp(params, x, argnums=wrt)
            return scores - origin, pullback

        return forward


def _plus(weight: float, a: Array, b: Array) -> Array:
    return a + weight * b


def _half_of_squares(params: Params) -> Term:
    """Half the sum of the squared weights; biases do not count."""
    xp = _array.namespace(params[0]["weight"])
    halved = 0.5 * sum(xp.sum(layer["weight"] * layer["weight"]) for layer in params)
    return halved, tuple(
        {"weight": layer["weight"], "bias": xp.zeros_like(layer["bias"])} for layer in params
    )
