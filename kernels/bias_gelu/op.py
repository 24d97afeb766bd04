"""bias_gelu as a torch operator: schema, checks, shapes, gradient, and who computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from ..checks import check_rows, check_split, check_vectors, wrong
from ..dispatch import runs_triton
from ..launch import in_order


@custom_op("lxmert_fast::bias_gelu", mutates_args=())
def bias_gelu(x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int) -> Tensor:
    """gelu(x + bias) of rows (N, H), exact; the rows from `split` on with `bias2`, None with one stream.

    Raises:
        ValueError: an argument that does not fit.
    """
    check_rows("bias_gelu", "x", x)
    if bias is None and bias2 is not None:
        raise wrong("bias_gelu", "bias2", "given without bias", "both or bias alone")
    check_vectors("bias_gelu", x, bias=bias, bias2=bias2)
    check_split("bias_gelu", x, split, bias2 is not None)
    if runs_triton(x):
        from .triton import launch_forward

        return launch_forward(x.contiguous(), in_order(bias), in_order(bias2), split)
    return F.gelu(_sum(x, bias, bias2, split)).to(x.dtype)


@bias_gelu.register_fake
def _(x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@custom_op("lxmert_fast::bias_gelu_backward", mutates_args=())
def backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int, want_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx; y again where it is wanted, else (0,); dbias (streams, H), or (0,) without bias."""
    if runs_triton(x):
        from .triton import launch_backward

        rows = dy.contiguous(), x.contiguous()
        return launch_backward(*rows, in_order(bias), in_order(bias2), split, want_y)
    u = _sum(x, bias, bias2, split)
    dx = torch.ops.aten.gelu_backward(dy.to(u.dtype), u)
    y = F.gelu(u).to(x.dtype) if want_y else x.new_empty(0)
    if bias is None:
        return dx.to(x.dtype), y, x.new_empty(0)
    spans = [dx] if bias2 is None else [dx[:split], dx[split:]]
    return dx.to(x.dtype), y, torch.stack([part.sum(0) for part in spans]).to(bias.dtype)


@backward.register_fake
def _(
    dy: Tensor, x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int, want_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    y = x.new_empty(x.shape if want_y else (0,))
    if bias is None:
        return dx, y, x.new_empty(0)
    return dx, y, bias.new_empty(1 if bias2 is None else 2, x.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, bias, bias2, ctx.split = inputs
    ctx.save_for_backward(x, bias, bias2)


def _gradient(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    dx, _, dbias = backward(dy, *ctx.saved_tensors, ctx.split, False)
    return dx, *streams_of(dbias), None


bias_gelu.register_autograd(_gradient, setup_context=_keep)


def streams_of(dbias: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of one stream's bias and of the other's."""
    if dbias.dim() == 1:
        return None, None
    return dbias[0], dbias[1] if len(dbias) == 2 else None


def _sum(x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int) -> Tensor:
    """x + bias in fp32 at least."""
    u = x.to(torch.promote_types(torch.float32, x.dtype))
    if bias is None:
        return u
    if bias2 is None:
        return u + bias
    return torch.cat([u[:split] + bias, u[split:] + bias2])
