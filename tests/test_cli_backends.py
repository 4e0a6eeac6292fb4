"""Which libraries the command line finds usable."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("typer", reason="the command line needs the cli extra")
from zlpr.cli import backends
from zlpr.cli.errors import InputError


class CUDARuntimeError(RuntimeError):
    pass


def fake_cupy(devices: int | None) -> SimpleNamespace:
    def count() -> int:
        if devices is None:
            raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return devices

    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError, getDeviceCount=count))
    )


@pytest.mark.parametrize(
    ("devices", "why"), [(1, None), (0, "no CUDA device"), (None, "no CUDA device: cudaErrorNoDevice")]
)
def test_cupy_needs_a_device(devices: int | None, why: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    monkeypatch.setattr(backends.importlib, "import_module", lambda name: fake_cupy(devices))
    found = backends.why_unusable("cupy")
    assert found is None if why is None else found.startswith(why)
    if why:
        with pytest.raises(InputError, match="--backend cupy: no CUDA device"):
            backends.require_backend("cupy")


def test_a_library_that_does_not_import_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    monkeypatch.setattr(backends.importlib, "import_module", broken)
    assert (
        backends.why_unusable("torch") == "cannot be imported: libcuda.so.1: cannot open shared object file"
    )
    assert backends.why_unusable("numpy") is not None
    with pytest.raises(InputError, match="must be one of numpy, torch, cupy, jax, not 'tensorflow'"):
        backends.require_backend("tensorflow")
