"""One rank's file of a checkpoint, written while training goes on.

Training waits for a copy into buffers that are there already, not for the disk: `snapshot` copies, a thread
writes, flushes and counts the checksum. (`safetensors` and `fsync` let other Python threads run meanwhile.)
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text, sync

CHUNK = 1 << 24


class BackgroundWriter:
    """Runs one task at a time in a thread, on copies of tensors."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the buffers beforehand, in the thread: fresh memory costs ten times a copy."""
        sizes = {name: (x.shape, x.dtype) for name, x in tensors.items()}

        def make() -> None:
            # touched here, or the first snapshot would wait for the pages
            self._buffers = {name: torch.zeros(shape, dtype=kind) for name, (shape, kind) in sizes.items()}

        self._run(make)

    def snapshot(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the host; call `wait` before, since the copies of the last snapshot are overwritten."""
        kept: dict[str, Tensor] = {}
        for name, x in tensors.items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != x.shape or buffer.dtype != x.dtype:
                buffer = torch.empty(x.shape, dtype=x.dtype)
            kept[name] = buffer.copy_(x.detach(), non_blocking=True)
        if any(x.is_cuda for x in tensors.values()):
            torch.cuda.synchronize()
        self._buffers = kept
        return dict(kept)

    def start(self, task: Callable[[], None]) -> None:
        """Run `task` in the thread; an error of it is raised by `wait`."""
        self.wait()
        self._run(task)

    @property
    def failed(self) -> bool:
        """Whether the last task ended with an error."""
        return self._error is not None

    def wait(self) -> None:
        """Until the last task is done.

        Raises:
            InputError: what it could not write, and why.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, task: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                task()
            except Exception as error:  # raised again by `wait`, on the thread that trains
                self._error = error

        self._thread = threading.Thread(target=guarded, name="checkpoint", daemon=True)
        self._thread.start()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, int]:
    """Write a safetensors file to the disk; `facts` are stored in it as JSON.

    Returns:
        `seal(path)`.

    Raises:
        InputError: it cannot be written.
    """
    try:
        save_file(dict(tensors), path, metadata={"facts": json.dumps(facts)})
        sync(path)
        return seal(path)
    except Exception as error:  # safetensors raises its own for a full disk
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:160]
        raise InputError(f"{path}: cannot be written ({reason})") from None


def seal(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file, by which damage is found later: {"bytes", "crc32"}."""
    size, crc = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return {"bytes": size, "crc32": crc}


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=1) + "\n"
    replace_text(path, text)
