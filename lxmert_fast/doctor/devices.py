"""GPUs, their driver, CUDA and NCCL."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from lxmert_fast.flops import device_peak

from .facts import Fact

#: The kernel module writes its version here; no library has to be loaded for it.
DRIVER = Path("/proc/driver/nvidia/version")


def accelerators() -> list[Fact]:
    """A line a GPU that PyTorch sees."""
    if not torch.cuda.is_available():
        return [
            Fact(
                "GPU",
                None,
                "training runs on the CPU: PyTorch's reference path, gloo between ranks; no Triton kernel, "
                "no CUDA graph runs",
            )
        ]
    found = []
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        peak = device_peak(device.name)
        means = "" if peak else "its peak is not in the table: no model FLOPs utilisation is reported"
        if device.major < 8:
            means = f"{means}; no bf16 products: optimisation.precision=fp16".lstrip("; ")
        size = f"{device.total_memory / 1e9:.1f} GB, compute capability {device.major}.{device.minor}"
        found.append(Fact(f"GPU {number}", f"{device.name}, {size}", means))
    return found


def cuda() -> list[Fact]:
    """Driver, the CUDA that PyTorch was built with, NCCL."""
    driver = None
    if DRIVER.is_file():
        match = re.search(r"(\d+\.\d+(\.\d+)?)", DRIVER.read_text())
        driver = match.group(1) if match else None
    distributed = torch.distributed.is_available()
    nccl = None
    if distributed and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    gloo = "yes" if distributed and torch.distributed.is_gloo_available() else None
    return [
        Fact("NVIDIA driver", driver, "" if driver else "no NVIDIA GPU can be used"),
        Fact(
            "CUDA of PyTorch",
            torch.version.cuda,
            ""
            if torch.version.cuda
            else "this PyTorch is built for CPUs: it uses no GPU even where there is one",
        ),
        Fact("NCCL", nccl, "" if nccl else "ranks on GPUs cannot talk; ranks on CPUs use gloo"),
        Fact("gloo", gloo, "" if gloo else "ranks on CPUs cannot talk"),
    ]
