"""Measures of information as sums of entropies of some variables, less the entropy of all.

``Σ s_S H(S) - H(all)`` with signs s_S is mutual information for S = {x}, {y}, and so on. All its estimators are here:
two that count points around the neighbours of all variables together, and the plain sum of entropies. The algebra is in
``docs/derivations/mutual_information.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.entropy import _constants, _metric, _points
from zlpr.entropy._sample import Batches, Logs, Options, Weights, edges_between, require_cotangent
from zlpr.entropy._scaling import checked_scaling, scaled
from zlpr.entropy._within import count_within
from zlpr.entropy.search import nearest

Terms = tuple[tuple[int, tuple[int, ...]], ...]
"""Signs, and the places of the variables whose entropy is taken."""

ESTIMATORS = ("ksg1", "ksg2", "3h")


class Call(NamedTuple):
    """A call after the checks: the variables in units to compute in, and in which combination they are taken."""

    terms: Terms
    estimator: str
    options: Options
    samples: tuple[Batches, ...]
    unscaled: tuple[Callable[[Array], Array], ...]
    kept: Array | None
    weights: Weights
    names: tuple[str, ...]

    @property
    def every(self) -> tuple[int, ...]:
        """The places of all variables."""
        return tuple(range(len(self.samples)))

    def joint(self, members: tuple[int, ...]) -> Batches:
        """Some variables as the coordinates of one sample."""
        first = self.samples[members[0]]
        if len(members) == 1:
            return first
        xp = _array.namespace(first.points)
        return first._replace(points=xp.concat([self.samples[i].points for i in members], axis=-1))

    def title(self, members: tuple[int, ...]) -> str:
        """The variables as an error names them."""
        names = ", ".join(self.names[i] for i in members)
        return names if len(members) == 1 else f"({names})"

    def unless_finite(self, values: Array) -> Array:
        """`values`, and nan in the batches of which a variable is not finite."""
        for sample in self.samples:
            values = sample.unless_finite(values)
        return values


def prepared(
    variables: Mapping[str, Array], terms: Terms, *, k: Any, estimator: Any, standardize: Any, **options: Any
) -> Call:
    """The call, or an error that names what is wrong with an argument."""
    names, scaling = tuple(variables), checked_scaling(standardize)
    lead = variables[names[0]]
    _points.require_points(names[0], lead)
    for name in names[1:]:
        _points.require_paired_points(names[0], lead, name, variables[name])
    if estimator not in ESTIMATORS:
        raise ValueError(f'estimator must be "ksg1", "ksg2" or "3h", not {estimator!r}')
    n = int(lead.shape[-2])
    if n < 2:
        raise ValueError(f"{names[0]} must have at least 2 points, but its shape is {tuple(lead.shape)}")
    checked = Options.checked(k, n - 1, "other points", **options)
    if estimator != "3h" and (checked.p != math.inf or checked.smoothing):
        raise ValueError(
            f'estimator="{estimator}" counts in the maximum norm: p must be inf and smoothing 0, '
            f"got {checked.p} and {checked.smoothing}"
        )
    if estimator == "3h" and checked.duplicates == "drop":
        raise ValueError(
            'estimator="3h" takes duplicates="raise" or "clamp": points that differ together may repeat alone'
        )
    samples, unscaled = [], []
    for name, variable in variables.items():
        sample = Batches.of(name, variable)
        points, pullback = scaled(sample.points, scaling)
        samples.append(sample._replace(points=points))
        unscaled.append(pullback)
    weights = Weights(None, None, checked, tuple(lead.shape[:-2]))
    call = Call(terms, estimator, checked, tuple(samples), tuple(unscaled), None, weights, names)
    if checked.duplicates != "drop":
        return call
    kept = call.joint(call.every).first_of_equals(call.title(call.every), checked.method, max(checked.ks) + 1)
    return call._replace(
        kept=kept,
        weights=Weights(_array.as_dtype(kept, samples[0].points.dtype), kept, checked, weights.batch),
    )


def estimated(call: Call) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """The value, and the pullback to all variables."""
    local, pulled = _by_entropies(call) if call.estimator == "3h" else (_by_counting(_settled(call)), None)
    with _walk.quiet(local):
        local = call.unless_finite(local * call.options.scale)
        value = call.weights.reduced(local)

    def information_pullback(dvalue: Array) -> tuple[Array, ...]:
        if pulled is None:
            raise ValueError(
                f'estimator="{call.estimator}" has no gradient: it counts points, and is constant between jumps; '
                f'take estimator="3h"'
            )
        require_cotangent(dvalue, value)
        with _walk.quiet(local):
            gradients = pulled(call.weights.cotangents(dvalue, local) * call.options.scale)
            return tuple(
                sample.restored(call.unless_finite(pullback(gradient)))
                for sample, pullback, gradient in zip(call.samples, call.unscaled, gradients, strict=True)
            )

    return value, information_pullback


def _by_entropies(call: Call) -> tuple[Array, Callable[[Array], list[Array]]]:
    """The sum of the entropies' local values, (B, n, K), and its pullback to the scaled variables."""
    batches, n, _ = call.samples[0].points.shape
    parts, constant = [], 0.0
    for sign, members in (*call.terms, (-1, call.every)):
        sample = call.joint(members)
        d = int(sample.points.shape[2])
        edges = edges_between(sample, None, call.options, call.options.ks, None)
        parts.append((sign * d, members, Logs.of(edges, batches, call.options, None, call.title(members))))
        constant += sign * _metric.log_unit_ball(d, call.options.p)
    xp, signs = _array.namespace(parts[0][2].values), sum(sign for sign, _ in call.terms) - 1
    with _walk.quiet(parts[0][2].values):
        local = sum(factor * logs.values for factor, _, logs in parts)
        counts = [constant + signs * (_constants.digamma(n) - _constants.digamma(k)) for k in call.options.ks]
        local = xp.concat([local[..., i : i + 1] + c for i, c in enumerate(counts)], axis=-1)

    def entropies_pullback(cotangents: Array) -> list[Array]:
        gradients = [xp.zeros_like(sample.points) for sample in call.samples]
        for factor, members, logs in parts:
            of_queries, of_points = logs.pulled(cotangents * float(factor))
            whole, start = xp.reshape(of_queries + of_points, (batches, n, -1)), 0
            for i in members:
                stop = start + call.samples[i].points.shape[2]
                gradients[i] = gradients[i] + whole[..., start:stop]
                start = stop
        return gradients

    return local, entropies_pullback


def _settled(call: Call) -> Call:
    """The same variables as constants, whose rounding is the same in every comparison."""
    samples = (s._replace(points=_ops.settled(_array.detached(s.points))) for s in call.samples)
    return call._replace(samples=tuple(samples))


def _by_counting(call: Call) -> Array:
    """Local values from the numbers of points around each, (B, n, K)."""
    xp, batches = _array.namespace(call.samples[0].points), call.samples[0].points.shape[0]
    found, variables = [_lengths(call, i) for i in range(batches)], len(call.samples)
    lengths: list[Array] = [xp.stack([batch[i] for batch in found]) for i in range(variables)]
    count = call.samples[0].log_count(call.kept, 0, "psi")
    columns = []
    for k in call.options.ks:
        sides = _sides(call, [length[..., :k] for length in lengths], k)
        total: Array | float = 0.0
        for sign, members in call.terms:
            inside = xp.stack([_around(call, i, members, sides) for i in range(batches)])[..., None]
            total = total + sign * (count - _digamma_of_count(call.estimator, inside, len(members)))
        taken = (variables - 1) / k if call.estimator == "ksg2" else 0.0
        columns.append(total - count + (_constants.digamma(k) - taken))
    return xp.concat(columns, axis=-1)


def _digamma_of_count(estimator: str, inside: Array, variables: int) -> Array:
    """What stands for log of the number of other points inside, which are at most these, in a cube or a box."""
    if estimator == "ksg1":
        return _constants.digamma_of(inside + 1.0)
    digamma = _constants.digamma_of(inside)
    return digamma if variables == 1 else digamma - (variables - 1) / inside


def _lengths(call: Call, batch: int) -> list[Array]:
    """How far the neighbours 1 to k in all variables together are in each of them, (n, k)."""
    xp, options = _array.namespace(call.samples[0].points), call.options
    points = call.joint(call.every).points[batch, ...]
    valid = None if call.kept is None else call.kept[batch, ...]
    _, ends = nearest(points, None, max(options.ks), math.inf, options.method, valid)
    found = []
    for sample in call.samples:
        x = sample.points[batch, ...]
        near = xp.reshape(xp.take(x, xp.reshape(ends, (-1,)), axis=0), (*ends.shape, x.shape[1]))
        found.append(_metric.norm(x[:, None, :] - near, math.inf))
    return found


def _sides(call: Call, lengths: list[Array], k: int) -> list[Array]:
    """Half the sides of the box around each point, (B, n), one for each variable, or one for all where it is a cube."""
    xp = _array.namespace(lengths[0])
    if call.estimator == "ksg2":
        sides = [xp.max(length, axis=-1) for length in lengths]
    else:
        sides = [xp.max(xp.stack([length[..., -1] for length in lengths]), axis=0)]
    radius = xp.max(xp.stack(sides), axis=0)
    if call.kept is not None:
        radius = _ops.where(call.kept, radius, 1.0, radius)
    zero = radius == 0
    if call.options.duplicates == "clamp":
        positive = _ops.where(zero, math.inf, radius, radius)
        floor = xp.broadcast_to(xp.min(positive, axis=-1, keepdims=True), radius.shape)
        sides = [_ops.where(zero, floor, side, side) for side in sides]
        zero = floor == math.inf
    if _points.is_host(radius):
        if bool(xp.any(zero)):
            _refuse(call, zero, k)
        return sides
    return [_ops.where(zero, math.nan, side, side) for side in sides]


def _refuse(call: Call, zero: Array, k: int) -> None:
    xp, name = _array.namespace(zero), call.title(call.every)
    if call.options.duplicates == "clamp":
        raise ValueError(
            f"all points of {name} coincide with their neighbours: there is no distance to clamp to"
        )
    first = int(xp.nonzero(zero)[1][0])
    raise ValueError(
        f"{name} has {int(xp.count_nonzero(zero))} points at distance 0 from their neighbour number {k}, the first at "
        f'index {first}: take duplicates="drop" or "clamp", or a larger k'
    )


def _around(call: Call, batch: int, members: tuple[int, ...], sides: list[Array]) -> Array:
    """The number of other points in the box around each in some of the variables, (n,); nan where it has no sides."""
    xp = _array.namespace(sides[0])
    lengths = [sides[0]] if len(sides) == 1 else [sides[i] for i in members]
    lengths = [side[batch, ...] for side in lengths]
    valid = None if call.kept is None else call.kept[batch, ...]
    parts = [call.samples[i].points[batch, ...] for i in members]
    counts = count_within(parts, lengths, call.estimator == "ksg1", valid, call.options.method)
    others = _array.as_dtype(counts, lengths[0].dtype) - 1.0
    if valid is not None:
        others = _ops.where(valid, others, 1.0, others)
    return others if _points.is_host(others) else _ops.where(xp.isnan(lengths[0]), math.nan, others, others)
