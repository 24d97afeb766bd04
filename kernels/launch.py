"""The one place where a Triton kernel is launched.

Launches are reported to whoever listens: tests and the benchmark count them. Contraction of a * b + c into
one rounding is asked for explicitly, since Triton's default for it changes between versions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from .configs import Settings
from .dispatch import processors

#: Of a backward pass: the sums of a program are then under a sixth of what it reads and writes.
ROWS_A_PROGRAM = 32

MaybeTensor = TypeVar("MaybeTensor", Tensor, Tensor | None)
Listener = Callable[[str, tuple[int, ...]], None]
_listeners: list[Listener] = []


def launch(
    kernel: Any, grid: tuple[int, ...], on: Tensor, settings: Settings, *args: Any, **constants: Any
) -> None:
    """Launch a kernel on the device of a tensor.

    Args:
        kernel: a `triton.jit` function.
        grid: programs in each dimension; nothing is launched where one is 0.
        settings: warps and stages.
        args, constants: the kernel's arguments.
    """
    if 0 in grid:
        return
    for listener in _listeners:
        listener(kernel.fn.__name__, grid)
    with torch.cuda.device(on.device) if on.is_cuda else nullcontext():
        kernel[grid](
            *args,
            **constants,
            num_warps=settings.warps,
            num_stages=settings.stages,
            enable_fp_fusion=True,
        )


def in_order(x: MaybeTensor) -> MaybeTensor:
    """A tensor, if there is one, as a kernel reads it that is told no strides."""
    return None if x is None else x.contiguous()


def programs_for(rows: int, tile: int, device: torch.device, least: int = ROWS_A_PROGRAM) -> int:
    """How many programs share rows, where each leaves a sum: enough to fill the GPU, few enough sums.

    A sum costs as much memory traffic as a few rows, so a program has `least` rows or more.
    """
    return min(-(-rows // max(tile, least)), 2 * processors(device)) if rows else 0


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener(name, grid)` at every launch of this block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
