"""The end of every sub-layer, in plain PyTorch: the definition and the CPU path.

    s = dropout(x + bias) + residual
    y = (s - mean(s)) / sqrt(var(s) + eps) * weight + shift

Post-LayerNorm residual block of BERT, as LXMERT uses it everywhere (section 2.1.2): each attention
and each feed-forward sub-layer ends with it. eps is 1e-12 and is added to an fp32 variance: in fp16
it would round to zero.

Backward needs s, and y is kept anyway, as the input of what comes next. So s is not: it follows from y, a
mean and a deviation a row, where no weight is so small that dividing by it loses digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..dropout import dropout

#: A weight this much smaller than its shift would cost more than two of the digits of (y - shift) / weight.
_LEAST_WEIGHT = 0.25


def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    *,
    bias: Tensor | None = None,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    """Dropout, residual sum and LayerNorm of the last dimension.

    Args:
        x: (..., H), the product of the sub-layer's output weights.
        residual: (..., H), the sub-layer's input.
        weight, shift: (H,), the LayerNorm's parameters.
        bias: (H,), the product's bias where it has not been added yet.
        dropout_p: rate; 0 outside training.

    Returns:
        (..., H).
    """
    total = residual_sum(x, residual, bias, dropout_p)
    if torch.is_grad_enabled() and total.requires_grad and _invertible(total, weight, shift):
        return _LayerNormFromOutput.apply(total, weight, shift, eps)
    return F.layer_norm(total, (total.shape[-1],), weight, shift, eps)


def residual_sum(x: Tensor, residual: Tensor, bias: Tensor | None, dropout_p: float) -> Tensor:
    """dropout(x + bias) + residual."""
    if bias is not None:
        x = x + bias
    if dropout_p > 0.0:
        x = dropout(x, dropout_p)
    return x + residual


def _invertible(total: Tensor, weight: Tensor, shift: Tensor) -> bool:
    """Asked on the CPU alone: a GPU would have to wait for the answer."""
    return (
        not torch.compiler.is_compiling()
        and total.device.type == "cpu"
        and total.dtype in (torch.float32, torch.float64)
        and weight.dtype == total.dtype
        and bool((weight.detach().abs() > _LEAST_WEIGHT * shift.detach().abs()).all())
    )


class _LayerNormFromOutput(torch.autograd.Function):
    """LayerNorm that keeps its output for backward, not its input."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, weight: Tensor, shift: Tensor, eps: float) -> Tensor:
        y, mean, deviation = torch.native_layer_norm(s, weight.shape, weight, shift, eps)
        ctx.save_for_backward(y, mean, deviation, weight, shift)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, mean, deviation, weight, shift = ctx.saved_tensors
        s = y.sub(shift).div_(weight).div_(deviation).add_(mean)
        wanted = [bool(need) for need in ctx.needs_input_grad[:3]]
        return *torch.ops.aten.native_layer_norm_backward(
            grads[0].contiguous(), s, weight.shape, mean, deviation, weight, shift, wanted
        ), None
