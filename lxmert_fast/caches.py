"""Where compiled code is kept: Triton's kernels, torch.compile's code, what DeepSpeed builds.

On a network file system the ranks of a job meet each other's half-written files, and wait for each other's
metadata. So training keeps all three on the disk of each node, where a variable does not say otherwise.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Cache(NamedTuple):
    """Of one compiler."""

    name: str
    variable: str
    """Of the environment; whoever sets it decides."""
    folder: str
    """Name in `local_folder()`."""

    @property
    def chosen(self) -> str | None:
        """The variable's value, where somebody set it; PyTorch puts its own default there when imported."""
        value = os.environ.get(self.variable)
        if not value or value.startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
            return None
        return value

    @property
    def place(self) -> Path:
        """Where training keeps it."""
        return Path(self.chosen or local_folder() / self.folder)


CACHES = (
    Cache("Triton's cache", "TRITON_CACHE_DIR", "triton"),
    Cache("torch.compile's cache", "TORCHINDUCTOR_CACHE_DIR", "inductor"),
    Cache("DeepSpeed's built operations", "TORCH_EXTENSIONS_DIR", "extensions"),
)


def user_folder() -> Path:
    """This user's, in the temporary directory (TMPDIR), which is a node's own nearly everywhere."""
    return Path(tempfile.gettempdir()) / f"lxmert-fast-{os.getuid()}"


def local_folder() -> Path:
    """Of these versions: code that another one compiled is not looked at."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return user_folder() / "-".join([python, *map(_versioned, ("torch", "triton", "lxmert-fast"))])


def _versioned(name: str) -> str:
    try:
        return name + metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"no-{name}"
