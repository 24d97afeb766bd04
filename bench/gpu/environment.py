"""What the figures are of: GPU, driver, clocks, versions, and which optional packages are there."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from importlib.util import find_spec
from typing import Any

import torch

from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.results import code_version
from lxmert_fast.bench.machine import describe

#: Dense bf16 products a second by name, the longest name that fits first (NVIDIA's data sheets).
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
_QUERIES = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,power.max_limit,persistence_mode"


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP a second of a GPU; None where it is not in the table."""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def environment(device: Device) -> dict[str, Any]:
    """`machine_info` of the result file."""
    there: dict[str, Any] = {
        **describe(),
        "dtype": "bf16",
        "dry_run": device.dry,
        "tiny": device.dry,
        "python": platform.python_version(),
        "packages": {"apex": apex(), "liger": "installed" if has("liger_kernel") else "not installed"},
    }
    there["versions"] |= {"triton": _triton()} if has("triton") else {}
    gpu = None if device.dry else _gpu()
    if gpu is not None:
        there |= {"processor": f"{gpu['name']} ({there['processor']})", "gpu": gpu}
    there["fingerprint"] = [
        gpu and [gpu["name"], gpu["driver_version"]],
        there["versions"],
        there["packages"],
        device.dry,
        code_version(),
    ]
    return there


def has(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    return find_spec(module) is not None


def apex() -> str:
    """NVIDIA's Apex, or the package of that name on PyPI, which has nothing to do with it."""
    if not has("apex"):
        return "not installed"
    try:
        importlib.import_module("apex.normalization").FusedLayerNorm  # noqa: B018
    except (ImportError, AttributeError):
        return "another package of this name"
    return "NVIDIA's"


def lines(there: dict[str, Any]) -> list[str]:
    """For people."""
    versions = ", ".join(f"{name} {version}" for name, version in there["versions"].items())
    packages = ", ".join(f"{name}: {state}" for name, state in there["packages"].items())
    gpu = there.get("gpu")
    found = [there["processor"]]
    if gpu:
        peak = gpu["peak_bf16"]
        found.append(
            f"compute capability {gpu['capability']}, {gpu['memory_gb']} GB, CUDA {gpu['cuda']}, "
            + (f"{peak / 1e12:.0f} TFLOP/s in bf16" if peak else "peak unknown: no MFU")
        )
        found.append(", ".join(f"{name} {value}" for name, value in gpu["nvidia_smi"].items()))
    return [line for line in [*found, versions, packages] if line]


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    smi = _nvidia_smi()
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gb": round(properties.total_memory / 1e9, 1),
        "cuda": torch.version.cuda,
        "peak_bf16": peak_flops(properties.name),
        "driver_version": smi.pop("driver_version", "unknown"),
        "nvidia_smi": smi,
    }


def _nvidia_smi() -> dict[str, str]:
    """Driver, clocks and power limits; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={_QUERIES}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = done.stdout.strip().split(", ")
    return dict(zip(_QUERIES.split(","), values, strict=False))


def _triton() -> str:
    return str(importlib.import_module("triton").__version__)
