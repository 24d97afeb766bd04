"""Before the first update: do all ranks run the same code with the same settings on the same data?"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import lxmert_fast
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError

from .ranks import Ranks


def check_same(ranks: Ranks, facts: dict[str, Any]) -> None:
    """Compare what every rank says of itself.

    Args:
        ranks: all of them call.
        facts: name to something printable.

    Raises:
        InputError: on all ranks; names the fact, the rank and host that differ, and both values.
    """
    told = ranks.gather((socket.gethostname(), facts))
    first_host, first = told[0]
    for rank, (host, found) in enumerate(told):
        for name in sorted(first | found):
            if found.get(name) != first.get(name):
                raise InputError(
                    f"rank {rank} ({host}) has another {name} than rank 0 ({first_host}): "
                    f"{found.get(name)} and {first.get(name)}"
                )


def code_facts() -> dict[str, Any]:
    """Versions, and a digest of this package's source."""
    return {
        "version of Python": platform.python_version(),
        "version of torch": torch.__version__,
        "version of transformers": transformers.__version__,
        "version of lxmert-fast": lxmert_fast.__version__,
        "source of lxmert-fast": source_digest(),
    }


def digest(*parts: np.ndarray | Sequence[str]) -> str:
    """Of arrays and lists of names."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else "\n".join(part).encode())
    return found.hexdigest()[:16]


def digest_of_regions(store: RegionStore) -> str:
    """Of what a store holds: its images, how many boxes each has, how long a feature is; not the features,
    which would take as long to read as an epoch."""
    return digest(store.image_ids, store.counts, [str(store.feature_size)])


def source_digest() -> str:
    """Of every Python file of the package, wherever its rooms are installed from."""
    digest = hashlib.sha256()
    for room in ("lxmert_fast", "lxmert_fast.kernels", "lxmert_fast.train"):
        # its first place alone: in a checkout the package's second one is the root, with .venv and all
        folder = Path(__import__(room, fromlist=["__path__"]).__path__[0])
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
