"""Output files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from zlpr.cli.errors import InputError


def require_writable(path: Path, *inputs: Path) -> None:
    """Raise InputError unless a file can be written at `path`, which is none of the inputs; asked before the work."""
    for other in inputs:
        if path.exists() and other.exists() and path.samefile(other):
            raise InputError(f"--out {path} is the file that is read; it would be lost")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"cannot write {path}: permission denied")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, so that no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
