"""Who serves a call: the plain PyTorch of `reference.py`, or the operators of `op.py`.

    auto        CUDA tensors take the operators, where Triton is installed; all others the reference
    operator    every tensor takes the operators; on a CPU they compute the reference's formulas, and under
                TRITON_INTERPRET=1 they run the Triton kernels
    apex        as auto, with the LayerNorm of NVIDIA's Apex in place of the operator's
    reference   plain PyTorch everywhere

`LXMERT_FAST_KERNELS` sets it for a process, `implementation` for a block of code. Nothing here, and nothing
at import time anywhere, asks for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from .configs import WrongVariable

VARIABLE = "LXMERT_FAST_KERNELS"
CHOICES = ("auto", "operator", "apex", "reference")
#: The keys that one attention kernel holds at a time: 64 text positions and 100 boxes fit.
MOST_KEYS = 128

_chosen: list[str] = [os.environ.get(VARIABLE, "auto")]


@contextmanager
def implementation(choice: str) -> Iterator[None]:
    """Serve the calls of this block by one of `CHOICES`."""
    before, _chosen[0] = _chosen[0], _checked(choice)
    try:
        yield
    finally:
        _chosen[0] = before


def use_operators(x: Tensor) -> bool:
    """Whether a call on this tensor goes to the operators."""
    choice = _checked(_chosen[0])
    if choice in ("auto", "apex"):
        return x.device.type == "cuda" and has_triton()
    return choice == "operator"


def use_apex(x: Tensor) -> bool:
    """Whether a LayerNorm of this tensor goes to NVIDIA's Apex."""
    return _checked(_chosen[0]) == "apex" and x.device.type == "cuda"


@lru_cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


@lru_cache
def interprets() -> bool:
    """Whether Triton's kernels run on the CPU, by its interpreter."""
    return has_triton() and os.environ.get("TRITON_INTERPRET", "0") == "1"


def runs_triton(x: Tensor) -> bool:
    """Whether an operator on this tensor launches Triton kernels. They compute in fp32, so fp64 does not."""
    if x.dtype is torch.float64:
        return False
    return x.device.type == "cuda" or (x.device.type == "cpu" and interprets())


@lru_cache
def architecture(device: torch.device) -> int:
    """Compute capability as Triton writes it, 90 for 9.0; 80 where there is no GPU."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@lru_cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 132 where there is none."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


def autocasts(x: Tensor) -> bool:
    """Whether autocast changes the dtypes of operations on this tensor."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _checked(choice: str) -> str:
    if choice not in CHOICES:
        raise WrongVariable(f"{VARIABLE} is {choice!r}, wanted one of {', '.join(CHOICES)}")
    return choice
