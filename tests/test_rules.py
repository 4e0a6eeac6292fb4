"""What a rule is, whatever its formula: names and positions, one input and several, composition, pickling."""

import copy
import inspect
import pickle

import numpy as np
import pytest

from zlpr import activations, losses, nn, rules
from zlpr.activations import gelu, sigmoid, softplus
from zlpr.losses import zlpr_loss
from zlpr.rules import Rule, compose, elementwise, rule
from zlpr.validation import check_rule

PUBLIC = [
    found
    for room in (activations, losses, nn)
    for found in (getattr(room, name) for name in room.__all__)
    if isinstance(found, Rule)
]


@rule
def square(x):
    """The square of x."""

    def square_pullback(dy):
        return 2 * x * dy

    return x * x, square_pullback


@rule
def increment(x):
    def increment_pullback(dy):
        return dy

    return x + 1, increment_pullback


@rule(wrt=("a", "c"))
def product(a, b, c, *, scale=1.0):
    """scale a b c, where b is a constant."""

    def product_pullback(dy):
        return scale * b * c * dy, scale * a * b * dy

    return scale * a * b * c, product_pullback


@pytest.fixture
def abc(xp):
    return tuple(xp.asarray(np.asarray(values)) for values in ([2.0, 3.0], [5.0, 7.0], [-1.0, 4.0]))


def assert_equal(xp, actual, expected):
    np.testing.assert_array_equal(xp.to_numpy(actual), expected)


def test_a_rule_of_one_input(xp):
    x = xp.asarray(np.asarray([3.0, -1.0]))
    assert_equal(xp, square(x), [9.0, 1.0])
    value, gradient = square.value_and_grad(x)
    assert_equal(xp, value, [9.0, 1.0])
    assert_equal(xp, gradient, [6.0, -2.0])
    value, pullback = square.vjp(x)
    assert_equal(xp, value, [9.0, 1.0])
    assert_equal(xp, pullback(xp.asarray(np.asarray([10.0, 100.0]))), [60.0, -200.0])
    check_rule(square, x)


def test_the_decorator_with_and_without_arguments(xp):
    x = xp.asarray(np.asarray([3.0]))
    for decorated in (rule(square.function), rule()(square.function), rule(square.function, wrt=["x"])):
        assert isinstance(decorated, Rule)
        assert decorated.wrt == ("x",)
        assert_equal(xp, decorated.value_and_grad(x)[1], [6.0])


def test_a_rule_of_several_inputs_gives_a_tuple_for_all(xp, abc):
    value, pullback = product.vjp(*abc, scale=10.0)
    assert_equal(xp, value, [-100.0, 840.0])
    gradients = pullback(xp.asarray(np.asarray([1.0, 2.0])))
    assert isinstance(gradients, tuple)
    assert len(gradients) == 2
    assert_equal(xp, gradients[0], [-50.0, 560.0])
    assert_equal(xp, gradients[1], [100.0, 420.0])
    assert_equal(xp, product.value_and_grad(*abc)[1], [-5.0, 28.0])  # the first alone
    check_rule(product, *abc, scale=10.0)


@pytest.mark.parametrize(
    ("argnums", "chosen"),
    [
        *((0, "a"), (1, "c"), (-1, "c"), (-2, "a"), ("a", "a"), ("c", "c")),
        *(((0, 1), "ac"), ((1, 0), "ca"), (("c",), "c"), (["c", "a"], "ca"), (("a", 1), "ac"), ((), "")),
    ],
)
def test_inputs_by_position_and_by_name(xp, abc, argnums, chosen):
    expected = {"a": [-5.0, 28.0], "c": [10.0, 21.0]}
    _, gradients = product.value_and_grad(*abc, argnums=argnums)
    if isinstance(argnums, int | str):
        gradients = (gradients,)  # one array for one input, a tuple for a sequence of one
    assert isinstance(gradients, tuple)
    assert len(gradients) == len(chosen)
    for gradient, name in zip(gradients, chosen, strict=True):
        assert_equal(xp, gradient, expected[name])


@pytest.mark.parametrize("argnums", [2, -3, "b", "x", (0, 2), ("a", "b"), 1.0, [None]])
def test_inputs_that_are_none_are_refused(xp, abc, argnums):
    wrong = argnums[-1] if isinstance(argnums, tuple | list) else argnums
    if isinstance(argnums, float):
        with pytest.raises(TypeError):
            product.vjp(*abc, argnums=argnums)
        return
    for call in (product.vjp, product.value_and_grad):
        with pytest.raises(
            ValueError, match=r"^argnums must be positions or names in \('a', 'c'\), .* of product"
        ) as caught:
            call(*abc, argnums=argnums)
        assert str(caught.value).endswith(f"not {wrong!r}")


def test_wrt_must_name_parameters():
    with pytest.raises(ValueError, match=r"^wrt must name parameters of f\('x', 'y'\), not \['z', 'w'\]$"):

        @rule(wrt=("x", "z", "w"))
        def f(x, y):
            return x, lambda dy: dy


def test_arguments_may_be_given_by_name(xp, abc):
    a, b, c = abc
    assert_equal(xp, product(a, c=c, b=b), [-10.0, 84.0])
    value, gradients = product.value_and_grad(a, c=c, b=b, argnums=("a", "c"))
    assert_equal(xp, value, [-10.0, 84.0])
    assert_equal(xp, gradients[1], [10.0, 21.0])
    check_rule(product, a, c=c, b=b)


def test_a_pullback_may_be_called_twice(xp, abc):
    for pullback in (product.vjp(*abc)[1], compose(square, softplus).vjp(abc[0])[1]):
        once, again = (pullback(xp.asarray(np.asarray([1.0, 3.0]))) for _ in range(2))
        for first, second in zip(once, again, strict=True):
            assert_equal(xp, first, xp.to_numpy(second))


def test_a_rule_that_takes_needs_is_told_them(xp, abc):
    told = []

    @rule(wrt=("a", "c"))
    def counted(a, b, c, *, needs=()):
        told.append(needs)

        def counted_pullback(dy):
            every = {"a": b * c * dy, "c": a * b * dy}
            return tuple(every[name] for name in needs)

        return a * b * c, counted_pullback

    counted(*abc)
    assert told == [()]
    for argnums, needs in ((None, ("a", "c")), (1, ("c",)), (("c", "a"), ("c", "a"))):
        told.clear()
        gradients = counted.vjp(*abc, argnums=argnums)[1](xp.asarray(np.ones(2)))
        assert told == [needs]
        expected = product.vjp(*abc, argnums=argnums)[1](xp.asarray(np.ones(2)))
        for one, other in zip(gradients, expected, strict=True):
            assert_equal(xp, one, xp.to_numpy(other))
    check_rule(counted, *abc)


def test_compose_calls_the_last_first(xp):
    x = xp.asarray(np.asarray([2.0]))
    assert_equal(xp, compose(square, increment)(x), [9.0])
    assert_equal(xp, compose(increment, square)(x), [5.0])
    assert_equal(xp, compose(square, increment).value_and_grad(x)[1], [6.0])
    assert_equal(xp, compose(square, increment, square).value_and_grad(x)[1], [40.0])  # 2 (x² + 1) 2x
    assert_equal(xp, compose(square).value_and_grad(x)[1], [4.0])
    check_rule(compose(softplus, square, gelu, sigmoid), xp.asarray(np.linspace(-2, 2, 5)))


def test_compose_takes_the_first_input_of_a_rule(xp):
    half = rule(lambda x, by=2.0: (x / by, lambda dy: dy / by))
    assert_equal(xp, compose(square, half).value_and_grad(xp.asarray(np.asarray([3.0])))[1], [1.5])


def test_compose_needs_a_rule():
    with pytest.raises(ValueError, match=r"^compose needs at least one rule, got none$"):
        compose()


def test_a_rule_shows_its_public_name():
    assert repr(gelu) == "<rule zlpr.activations.gelu>"
    assert repr(zlpr_loss) == f"<rule {zlpr_loss.__module__}.zlpr_loss>"
    assert repr(compose(softplus, sigmoid)).endswith("compose(softplus, sigmoid)>")
    assert compose(softplus, sigmoid).__doc__ == "The composition of softplus, sigmoid."


def test_a_rule_keeps_docstring_name_and_signature():
    assert square.__doc__ == "The square of x."
    assert square.__name__ == "square"
    assert square.__module__ == __name__
    assert list(inspect.signature(product).parameters) == ["a", "b", "c", "scale"]
    assert inspect.signature(product).parameters["scale"].default == 1.0
    assert list(inspect.signature(gelu).parameters) == ["x", "approximate"]
    assert list(inspect.signature(sigmoid).parameters) == ["x"]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda r: r.__name__)
def test_public_rules_are_pickled_by_name(public):
    assert pickle.loads(pickle.dumps(public)) is public
    assert copy.deepcopy(public) is public
    assert public.__doc__
    assert public.__doc__.count("Examples") == 1
    assert set(public.wrt) <= set(inspect.signature(public).parameters)


def test_there_are_public_rules_in_every_room():
    assert {r.__module__.split(".")[1] for r in PUBLIC} == {"activations", "losses", "nn"}
    assert set(rules.__all__) == {
        *("Elementwise", "RowLoss", "Rows", "Rule"),
        *("compose", "elementwise", "row_loss", "rule", "set_workers"),
    }


def test_a_rule_of_no_module_is_not_pickled():
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(compose(softplus, sigmoid))


@elementwise
def cube(x):
    """The cube of x."""

    def cube_pullback(dy):
        return 3 * x * x * dy

    return x * x * x, cube_pullback


def test_an_elementwise_rule_of_a_user(xp):
    x = np.asarray([-1.5, 0.25, 2.0])
    check_rule(cube, xp.asarray(x))
    assert isinstance(cube, Rule)
    assert list(inspect.signature(cube).parameters) == ["x"]
    with pytest.raises(
        NotImplementedError, match=r"^cube has no second derivative; @cube\.diagonal gives it one$"
    ):
        cube.value_grad_hess(xp.asarray(x))

    with_second = elementwise(cube.function)

    @with_second.diagonal
    def cube_diagonal(x):
        return 6 * x

    for dtype in xp.dtypes:  # x, its powers and their multiples are exact in each
        value, slope, curvature = with_second.value_grad_hess(xp.asarray(x, dtype))
        for part, expected in ((value, x**3), (slope, 3 * x**2), (curvature, 6 * x)):
            assert part.dtype == getattr(xp, dtype)
            np.testing.assert_array_equal(xp.to_numpy(part), expected)
