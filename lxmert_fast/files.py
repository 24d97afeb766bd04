"""Files that are whole or not there: written beside their place, flushed to the disk, renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path` and put it in its place; on any failure the old file stays.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        sync(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` with a text, in UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, whatever the file system refuses is about `path`.

    Raises:
        InputError: it cannot be written, and why.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """`torch.save` through `replace_file`.

    Raises:
        InputError: it cannot be written. (Of a full disk PyTorch makes a `RuntimeError` without the name.)
    """
    import torch

    try:
        replace_file(path, lambda beside: torch.save(content, beside))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: cannot be written ({reason})") from None


def lock(fd: int, path: Path) -> None:
    """An advisory lock that dies with the process; platforms without one go without.

    Raises:
        InputError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"{path}: another process is writing this file") from error


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
