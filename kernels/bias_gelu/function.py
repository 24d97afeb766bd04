"""The feed-forward activation as the encoders call it, by the reference or by the operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..dispatch import use_operators
from . import reference


def bias_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Bias and exact GELU, element by element.

    Args:
        x: (..., H).
        bias: (H,), or None where it has been added already.

    Returns:
        (..., H).
    """
    if not use_operators(x):
        return reference.bias_gelu(x, bias)
    from .op import bias_gelu as operator

    rows = x.reshape(-1, x.shape[-1])
    return operator(rows, bias, None, len(rows)).view(x.shape)


def bias_gelu_linear(
    x: Tensor,
    biases: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    split: int,
) -> Tensor:
    """W gelu(x + b) of rows by the operator, keeping x alone for backward.

    Args:
        x: (N, inner), the product of the first half without its bias.
        biases: (inner,), of one stream or of both.
        weights: (H, inner), likewise.
        split: the rows of the first stream; N where there is one.

    Returns:
        (N, H), without the product's bias.
    """
    if torch.is_grad_enabled():
        return _BiasGeluLinear.apply(x, split, len(biases), *biases, *weights)
    return _forward(x, split, biases, weights)


def _forward(x: Tensor, split: int, biases: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> Tensor:
    from .op import bias_gelu as operator

    y = operator(x, biases[0], biases[1] if len(biases) == 2 else None, split)
    return products(y, split, weights)


def products(x: Tensor, split: int, weights: tuple[Tensor, ...], transposed: bool = False) -> Tensor:
    """Each stream's rows times its own weights (out, in), or (in, out) if transposed, into one buffer."""
    if len(weights) == 1:
        return x @ (weights[0] if transposed else weights[0].t())
    out = x.new_empty(len(x), weights[0].shape[1 if transposed else 0])
    for rows, weight in zip((slice(None, split), slice(split, None)), weights, strict=True):
        torch.mm(x[rows], weight if transposed else weight.t(), out=out[rows])
    return out


class _BiasGeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, streams: int, *parameters: Tensor) -> Tensor:
        ctx.split, ctx.streams = split, streams
        ctx.save_for_backward(x, *parameters)
        return _forward(x, split, parameters[:streams], parameters[streams:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from .op import backward, streams_of

        x, *parameters = ctx.saved_tensors
        biases, weights = parameters[: ctx.streams], tuple(parameters[ctx.streams :])
        (grad,) = grads
        second = biases[1] if ctx.streams == 2 else None
        of_y = products(grad, ctx.split, weights, transposed=True)
        dx, y, dbias = backward(of_y, x, biases[0], second, ctx.split, True)
        spans = [slice(None, ctx.split), slice(ctx.split, None)][: ctx.streams]
        of_weights = [grad[rows].t() @ y[rows] for rows in spans]
        return dx, None, None, *streams_of(dbias)[: ctx.streams], *of_weights
