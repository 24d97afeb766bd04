"""What this machine has for training, and what is lost with each piece that it has not.

Only facts that are read here and now. Nothing is installed, built, started or sent anywhere, and nothing that
is missing, or cannot be read, is an error.
"""

from __future__ import annotations

from collections.abc import Callable

from .devices import accelerators, cuda
from .facts import Fact
from .machine import caches, disk, memory, network, open_files, processors, shared_memory
from .software import apex, compilers, hdf5, packages

__all__ = ["Fact", "examine"]

PROBES: tuple[Callable[[], list[Fact]], ...] = (
    accelerators,
    cuda,
    packages,
    hdf5,
    apex,
    compilers,
    processors,
    memory,
    disk,
    caches,
    network,
    open_files,
    shared_memory,
)


def examine() -> list[Fact]:
    """Every fact, in the order of the table."""
    found = []
    for probe in PROBES:
        try:
            found += probe()
        except Exception as error:  # a broken driver or package is what a doctor is for
            reason = " ".join(str(error).split())[:160]
            found.append(Fact(probe.__name__.replace("_", " "), None, f"could not be read: {reason}"))
    return found
