"""Promises of the package as a whole: what importing it costs, and that its public face is documented."""

import importlib
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import zlpr

FRAMEWORKS = ("torch", "jax", "scipy", "sklearn")
ROOMS = (
    *(
        "losses",
        "decision",
        "activations",
        "entropy",
        "nn",
        "optim",
        "perturb",
        "rules",
        "models",
        "validation",
    ),
)
FLOOR = "import numpy, array_api_compat"  # what any user of the array API pays


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_import_brings_in_no_framework():
    loaded = run_python("import sys, zlpr; print(*sys.modules)").split()
    assert not set(FRAMEWORKS) & set(loaded)


def import_seconds(statement):
    """CPU seconds of an import in a new process, which other processes disturb less than the clock."""
    code = f"import time; start = time.process_time(); {statement}; print(time.process_time() - start)"
    return float(run_python(code))


def test_import_is_cheap():
    import_seconds("import zlpr")  # fills the caches
    for _ in range(3):  # a busy machine gets three chances
        pairs = [(import_seconds("import zlpr"), import_seconds(FLOOR)) for _ in range(9)]
        ours, floor = (min(seconds) for seconds in zip(*pairs, strict=True))
        if ours <= 1.3 * floor:
            return
    pytest.fail(f"importing zlpr takes {ours / floor:.2f} x the time of '{FLOOR}'")


def test_version_is_the_installed_one():
    assert zlpr.__version__ == importlib.metadata.version("zlpr")


def public_names(room):
    module = importlib.import_module(f"zlpr.{room}")
    return [pytest.param(getattr(module, name), id=f"{room}.{name}") for name in module.__all__]


@pytest.mark.parametrize("thing", [name for room in ROOMS for name in public_names(room)])
def test_public_name_has_a_numpydoc_docstring_with_examples(thing):
    text = inspect.getdoc(thing) or ""
    assert "Examples\n--------\n>>> " in text
    if takes_arguments(thing):
        assert "Parameters\n----------\n" in text


def takes_arguments(thing):
    """Whether there are parameters to document: a constant has none."""
    return callable(thing) and bool(inspect.signature(thing).parameters)
