"""The leaves of a call and how they make up its arguments, so that a bridge can hand over flat arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from zlpr.rules import Rule

_CONTAINERS = (dict, list, tuple)


class Structure(NamedTuple):
    """How the leaves of a call make up its arguments; hashable."""

    names: tuple[str | None, ...]
    trees: tuple[Any, ...]

    def arguments(self, leaves: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments made of these leaves."""
        rest = iter(leaves)
        args, opts = [], {}
        for name, tree in zip(self.names, self.trees, strict=True):
            value = next(rest) if tree is None else tree.unflatten(_take(rest, tree.num_leaves))
            if name is None:
                args.append(value)
            else:
                opts[name] = value
        return tuple(args), opts

    def places(self, rule: Rule) -> dict[str, list[int]]:
        """Positions among the leaves of each differentiable input."""
        count = sum(1 if tree is None else tree.num_leaves for tree in self.trees)
        args, opts = self.arguments(range(count))
        return {name: flattened(rule.locate(name, args, opts))[0] for name in rule.wrt}

    def needed(self, rule: Rule, active: set[int], asked: str) -> tuple[str, ...]:
        """Names of the differentiable inputs with an active leaf; a TypeError where another leaf is active."""
        places = self.places(rule)
        if not active.issubset({i for where in places.values() for i in where}):
            raise TypeError(f"{rule.__name__} is differentiable in {', '.join(rule.wrt)} alone, but {asked}")
        return tuple(name for name, where in places.items() if active.intersection(where))


def _take(leaves: Any, n: int) -> list[Any]:
    return [next(leaves) for _ in range(n)]


class Nothing(NamedTuple):
    """The tree of a container without entries, which ``torch.compile`` cannot get from optree."""

    kind: type

    @property
    def num_leaves(self) -> int:
        return 0

    def unflatten(self, leaves: Any) -> Any:
        """A container without entries, of that kind."""
        return self.kind(leaves)


def flattened(value: Any) -> tuple[list[Any], Any]:
    """The leaves of an argument and, where it is a container, its tree."""
    if isinstance(value, _CONTAINERS) and not value:
        return [], Nothing(type(value))
    if isinstance(value, _CONTAINERS):
        import optree  # a fifth of the time of importing NumPy, for containers alone

        tree: Any = value
        leaves, structure = optree.tree_flatten(tree)
        return list(leaves), structure
    return [value], None


def disassembled(args: tuple[Any, ...], opts: dict[str, Any]) -> tuple[list[Any], Structure]:
    leaves, trees = [], []
    for value in (*args, *opts.values()):
        parts, tree = flattened(value)
        leaves.extend(parts)
        trees.append(tree)
    return leaves, Structure((*(None for _ in args), *opts), tuple(trees))
