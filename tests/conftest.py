"""One fixture, `xp`: the array library under test.

``pytest`` runs on every library that can be used here, ``pytest --library torch`` on PyTorch alone. A test
that does not take `xp` runs once, with NumPy, unless ``@pytest.mark.library("torch")`` says that it belongs
to another library; on a test that takes `xp` the same mark narrows the libraries. Nothing is skipped in
silence: the last lines of a run say which libraries ran and why the others did not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from _libraries import NAMES, STRICT_VERSION, Library, cupy_runs_on, load, why_unusable

collect_ignore = ["emulation"]  # its self-check is a program of its own
CHOSEN = pytest.StashKey[dict[str, str | None]]()  # library -> why it does not run, None where it does
DESELECTED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zlpr")
    group.addoption("--library", action="append", choices=NAMES, help="run on this library only; repeatable")
    group.addoption(
        "--strict-version",
        default=STRICT_VERSION,
        help="version of the standard that array-api-strict enforces, or 'latest' (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "library(*names): the test belongs to these array libraries")
    asked = config.getoption("--library")
    chosen = {name: why_unusable(name) for name in NAMES if name in (asked or NAMES)}
    if asked and (missing := [f"{name} ({why})" for name, why in chosen.items() if why]):
        raise pytest.UsageError(f"asked for with --library but not usable: {', '.join(missing)}")
    config.stash[CHOSEN], config.stash[DESELECTED] = chosen, 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have jobs in the background ignore it
    _choose_hypothesis_profile(config)


def _choose_hypothesis_profile(config: pytest.Config) -> None:
    emulated = config.pluginmanager.has_plugin("cupy_cpu")  # about a thousand times slower than NumPy
    in_ci = {"derandomize": True, "database": None} if os.environ.get("CI") else {}
    settings.register_profile(
        "zlpr",
        max_examples=10 if emulated else 25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        **in_ci,
    )
    settings.load_profile("zlpr")


@pytest.fixture(scope="session")
def xp(request: pytest.FixtureRequest) -> Library:
    """The array library under test."""
    return load(request.param, request.config.getoption("--strict-version"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "xp" in metafunc.fixturenames:
        names = _libraries_of(metafunc.definition, default=NAMES)
        metafunc.parametrize("xp", _running(metafunc.config, names), indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, dropped = [], []
    for item in items:
        default = NAMES if "xp" in getattr(item, "fixturenames", ()) else ("numpy",)
        (kept if _running(config, _libraries_of(item, default)) else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    config.stash[DESELECTED] = len(dropped)


def _libraries_of(item: pytest.Item, default: tuple[str, ...]) -> tuple[str, ...]:
    mark = item.get_closest_marker("library")
    if mark and (unknown := set(mark.args) - set(NAMES)):
        raise pytest.UsageError(f"{item.nodeid}: no library is called {', '.join(sorted(unknown))}")
    return mark.args if mark else default


def _running(config: pytest.Config, names: tuple[str, ...]) -> list[str]:
    return [name for name, why in config.stash[CHOSEN].items() if name in names and why is None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.section("array libraries")
    for name, why in config.stash[CHOSEN].items():
        terminalreporter.write_line(f"zlpr: {name}: {f'NOT RUN ({why})' if why else 'run'}")
    if config.stash[DESELECTED]:
        terminalreporter.write_line(
            f"zlpr: tests of other libraries, not run here: {config.stash[DESELECTED]}"
        )


# Wrapped around the terminal's own summary, so that this line is the last.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    config = session.config
    in_worker = hasattr(config, "workeroutput")  # of pytest-xdist: only the main process prints
    if in_worker:
        config.workeroutput["zlpr_deselected"] = config.stash[DESELECTED]
    result = yield
    if "cupy" in config.stash[CHOSEN] and not in_worker:
        why = config.stash[CHOSEN]["cupy"]
        config.get_terminal_writer().line(f"cupy: {f'NOT RUN ({why})' if why else cupy_runs_on()}")
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Fetch the count of a pytest-xdist worker; all of them collect the same tests."""
    node.config.stash[DESELECTED] = getattr(node, "workeroutput", {}).get("zlpr_deselected", 0)
