"""Where and with what a run was made, and how fast the machine multiplies matrices at best."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch

from lxmert_fast.bench.race import Unavailable

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "numpy", "h5py")
#: (in, out) of the feed-forward products, both ways, and the numbers of tokens that go through them.
SIZES, TOKENS = ((768, 3072), (3072, 768)), (1024, 2048, 4096)


def describe() -> dict[str, Any]:
    """Processor, cores, threads, memory, load and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def matrix_rate(tokens: Sequence[int] = TOKENS, repeats: int = 2) -> float:
    """FLOP a second of fp32 matrix products with the model's shapes, the best of all."""
    best = 0.0
    for rows, (size_in, size_out) in product(tokens, SIZES):
        a, b = torch.rand(rows, size_in), torch.rand(size_in, size_out)
        out = torch.mm(a, b)
        for _ in range(repeats):
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * rows * size_in * size_out / (time.perf_counter() - began))
    return best


def resident_bytes() -> int:
    """Memory of this process that is in RAM now. Raises `Unavailable` where Linux's /proc is not there."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        raise Unavailable("resident memory is read from /proc, which is Linux's") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else 'unknown processor'}, {capability}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
