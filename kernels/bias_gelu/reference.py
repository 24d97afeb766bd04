"""The feed-forward activation, in plain PyTorch: the definition and the CPU path.

    y = u * Phi(u) = u / 2 * (1 + erf(u / sqrt(2))),   u = x + bias

Exact (erf) GELU: neither code base of LXMERT uses the tanh approximation anywhere. u and y are four times as
wide as a hidden state and would both be kept for backward, one by the activation and one by the product that
reads it. `gelu_linear` keeps u and computes y again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def bias_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Bias and exact GELU, element by element.

    Args:
        x: (..., H).
        bias: (H,), or None where it has been added already.

    Returns:
        (..., H).
    """
    return F.gelu(x if bias is None else x + bias)


def gelu_linear(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W gelu(u) + b.

    Args:
        u: (N, H).
        weight: (out, H).
        bias: (out,).

    Returns:
        (N, out).
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _GeluLinear.apply(u, weight, bias)
    return F.linear(F.gelu(u), weight, bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(u, weight)
        return F.linear(F.gelu(u), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, weight = ctx.saved_tensors
        (grad,) = grads
        of_u = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_u = torch.ops.aten.gelu_backward(grad @ weight, u)
        if ctx.needs_input_grad[1]:
            of_weight = grad.t() @ F.gelu(u)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(0)
        return of_u, of_weight, of_bias
