"""Everything that is checked, by name: ``nox`` runs it all, ``nox -l`` lists it, ``nox -s NAME`` runs one."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # pip honours a local folder of wheels, uv does not
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "readme", "coverage"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
LIBRARIES = ("numpy", "torch", "jax", "strict", "cupy")
REQUIREMENTS = {
    "numpy": [],  # nothing more: this session proves that NumPy alone is enough
    "torch": ["torch==2.13.0", "expecttest"],  # which PyTorch's own test configurations import
    "jax": ["jax", "optax"],  # optax is the oracle of the optimizers
    "strict": [],  # array-api-strict is in the group of every session
}
EMULATION = Path("tests/emulation").resolve()


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session
@nox.parametrize("library", [nox.param(name, id=name) for name in LIBRARIES])
def tests(session: nox.Session, library: str) -> None:
    """The test suite on one array library; more arguments go to pytest: nox -s "tests(jax)" -- -k loss."""
    if library == "cupy":
        python_options, options = prepare_cupy(session)
    else:
        install(session, *REQUIREMENTS[library])
        python_options, options = {}, []
    if library == "numpy":
        options += ["--doctest-modules", "--pyargs", "zlpr"]
        options += [f"--ignore-glob=*/zlpr/_bridges/_{other}.py" for other in ("torch", "jax")]  # import it
    session.run(
        *("python", "-m", "pytest", "tests", "--library", library, *options),
        *("-n", "auto", "--maxprocesses", "4", "--cov", "--cov-report="),
        *session.posargs,
        env={"COVERAGE_FILE": str(Path(f".coverage.{library}").resolve()), **python_options},
    )


def install(session: nox.Session, *requirements: str) -> None:
    """The package as users get it, with what the tests need."""
    session.install("--no-compile", ".[cli,validate]", *group("test"), *requirements)


def prepare_cupy(session: nox.Session) -> tuple[dict[str, str], list[str]]:
    """Install CuPy for the CUDA device here, or else emulated; the environment and options of pytest."""
    if cuda := cuda_version():
        toolkit = "" if shutil.which("nvcc") else "[ctk]"
        install(session, f"cupy-cuda{cuda}x{toolkit}")
        return {}, []
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        session.skip("no CUDA device here, and the emulator needs Linux on x86_64")
    install(session)
    session.run("python", str(EMULATION / "cupy_cpu_install.py"), "--venv", session.virtualenv.location)
    environment = {"PYTHONPATH": str(EMULATION)}
    session.run("python", "-m", "cupy_cpu_selfcheck", env=environment)
    return environment, ["-p", "cupy_cpu"]


def cuda_version() -> int:
    """The CUDA version (12, 13) that the driver of this machine supports; 0 where no device answers."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    version, devices = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(devices)) or not devices.value:
        return 0
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000


@nox.session
def coverage(session: nox.Session) -> None:
    """How much of src the test sessions that ran have reached, together."""
    parts = [f".coverage.{name}" for name in LIBRARIES if Path(f".coverage.{name}").exists()]
    if not parts:
        session.error('nothing to combine: run nox -s "tests" first')
    session.install("coverage[toml]")
    session.run("coverage", "combine", "--keep", "--quiet", *parts)
    session.run("coverage", "report", "--show-missing", "--skip-covered", "--fail-under=95")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the floor plan: imports only point down."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": "src"})


@nox.session
def types(session: nox.Session) -> None:
    """Strict type checking of src."""
    session.install("--no-compile", ".[cli,validate]", *group("types"))
    session.run("mypy")


@nox.session
def readme(session: nox.Session) -> None:
    """The README with NumPy alone: its code blocks one by one, then the demonstration it opens with."""
    session.install("--no-compile", ".[cli]")
    script = Path("tests/readme_blocks.py").resolve()
    blocks = Path("README.md").resolve()
    session.chdir(session.create_tmp())  # clean, so that no file of the checkout can help
    session.run("python", str(script), str(blocks))
    session.run("zlpr", "demo")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Ten million random rows of every loss: no nan, no negative loss, no gradient beyond its bound."""
    session.install("--no-compile", ".[cli]")
    session.run("python", "tests/fuzz_losses.py", *session.posargs)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Peers side by side in one run: ratios, not seconds."""
    session.install("--no-compile", ".[cli]", *REQUIREMENTS["torch"], *REQUIREMENTS["jax"])
    for script in sorted(Path("benchmarks").glob("[!_]*.py")):
        session.run("python", str(script), *session.posargs)
