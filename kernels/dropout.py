"""Dropout whose mask costs a byte an element to keep and little to draw.

    y = x * m / (1 - p),   P(m = 0) = p

On a CPU PyTorch draws a Bernoulli variable an element and keeps a mask in the dtype of x; there drawing
costs more than the matrix product before it. Here an element takes 16 random bits of PyTorch's own
generator, so that `torch.manual_seed` and saved generator states govern it as before; the rate is p to
1 / 2 ** 17.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BITS = 16


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each element with probability p in [0, 1] and scale the others by 1 / (1 - p)."""
    dropped = round(p * 2**_BITS)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < 2**_BITS:
        return F.dropout(x, p)
    keep = random_bits(x.shape) >= dropped - 2 ** (_BITS - 1)
    return _Scale.apply(x, keep, 2**_BITS / (2**_BITS - dropped))


def random_bits(shape: torch.Size) -> Tensor:
    """Uniform int16 on the CPU, from PyTorch's default generator."""
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.int16)[:count].view(shape)


class _Scale(torch.autograd.Function):
    """x * keep * scale; only the mask is kept for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (grads[0] * keep).mul_(ctx.scale), None, None
