"""dropout_add_layer_norm as a torch operator: schema, checks, shapes, gradient, and who computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from ..checks import check_device, check_dropout, check_rows, check_split, check_vectors, wrong
from ..dispatch import runs_triton
from ..launch import in_order
from ..philox import Seed, keep_mask, keep_scale
from ..statistics import statistics
from .parameters import Parameters


@custom_op("lxmert_fast::dropout_add_layer_norm", mutates_args=())
def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    bias2: Tensor | None,
    seed: Tensor | None,
    split: int,
    eps: float,
    site: int,
    p: float,
    keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm(dropout(x + bias) + residual) of rows, the first `split` with one stream's parameters.

    Args:
        x: (N, H). residual: (N, H) in x's dtype or fp32; y has its dtype.
        weight, shift, bias: (H,). weight2, shift2, bias2: of the rows from `split` on; None with one stream.
        seed, site, p: dropout.
        keep_sum: keep s for backward, where y cannot give it back (`reference.py`).

    Returns:
        y (N, H); s (N, H) or (0,); mean and 1 / deviation (N,) in fp32, or fp64 with x.

    Raises:
        ValueError: an argument that does not fit.
    """
    name = "dropout_add_layer_norm"
    check_rows(name, "x", x)
    check_rows(name, "residual", residual, x.shape[1])
    if len(residual) != len(x):
        raise wrong(name, "residual", f"of {len(residual)} rows", f"{len(x)} rows as x")
    if residual.dtype not in (x.dtype, torch.float32):
        raise wrong(name, "residual", residual.dtype, f"{x.dtype} as x, or torch.float32")
    if (weight2 is None) != (shift2 is None) or (weight2 is not None and (bias is None) != (bias2 is None)):
        raise wrong(name, "weight2", "given in part", "weight2 and shift2 together, bias2 with bias")
    check_vectors(name, x, weight=weight, shift=shift, bias=bias, weight2=weight2, shift2=shift2, bias2=bias2)
    check_device(name, x, residual=residual)
    check_split(name, x, split, weight2 is not None)
    check_dropout(name, x, p, seed)
    first, second = _streams(weight, shift, bias, weight2, shift2, bias2)
    if runs_triton(x):
        from .triton import launch_forward

        return launch_forward(
            x.contiguous(), residual.contiguous(), first, second, split, eps, seed, site, p, keep_sum
        )
    wide = torch.promote_types(torch.float32, x.dtype)
    total = x.to(wide)
    if bias is not None:
        total = total + _rowwise(first.bias, second and second.bias, split, len(x)).to(wide)
    if p > 0.0:
        assert seed is not None
        total = total * keep_mask(Seed(seed, site), 0, tuple(x.shape), p) * keep_scale(p)
    total = total + residual.to(wide)
    mean, rstd = statistics(total, eps)
    y = (total - mean) * rstd * _rowwise(weight, weight2, split, len(x)) + _rowwise(
        shift, shift2, split, len(x)
    )
    s = total.to(residual.dtype) if keep_sum else residual.new_empty(0)
    return y.to(residual.dtype), s, mean[:, 0], rstd[:, 0]


@dropout_add_layer_norm.register_fake
def _(x: Tensor, residual: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = residual.shape if arguments[-1] else (0,)
    mean = x.new_empty(x.shape[0], dtype=torch.promote_types(torch.float32, x.dtype))
    y = torch.empty_like(residual, memory_format=torch.contiguous_format)
    return y, residual.new_empty(shape), mean, torch.empty_like(mean)


@custom_op("lxmert_fast::dropout_add_layer_norm_backward", mutates_args=())
def backward(
    dy: Tensor,
    x_like: Tensor,
    y: Tensor,
    s: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    shift: Tensor,
    weight2: Tensor | None,
    shift2: Tensor | None,
    seed: Tensor | None,
    split: int,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, or (0,) where it is dresidual; dresidual; and (streams, 3, H): dweight, dshift, dbias.

    `x_like` is (0,) in the dtype of x.
    """
    first, second = _streams(weight, shift, None, weight2, shift2, None)
    if runs_triton(x_like):
        from .triton import launch_backward

        return launch_backward(
            dy.contiguous(), x_like.dtype, y, s, mean, rstd, first, second, split, seed, site, p
        )
    rows = len(y)
    wide = torch.promote_types(torch.float32, x_like.dtype)
    scale = _rowwise(weight, weight2, split, rows).to(wide)
    if s.numel():
        normal = (s.to(wide) - mean[:, None]) * rstd[:, None]
    else:
        normal = (y.to(wide) - _rowwise(shift, shift2, split, rows)) / scale
    g = dy.to(wide) * scale
    ds = (g - g.mean(1, keepdim=True) - normal * (g * normal).mean(1, keepdim=True)) * rstd[:, None]
    dx = ds
    if p > 0.0:
        assert seed is not None
        dx = ds * keep_mask(Seed(seed, site), 0, tuple(y.shape), p) * keep_scale(p)
    parts = [dy.to(wide) * normal, dy.to(wide), dx]
    sums = [torch.stack([part[a:b].sum(0) for part in parts]) for a, b in _spans(split, rows, second)]
    same = p == 0.0 and x_like.dtype == y.dtype
    return (
        x_like.new_empty(0) if same else dx.to(x_like.dtype),
        ds.to(y.dtype),
        torch.stack(sums).to(weight.dtype),
    )


@backward.register_fake
def _(dy: Tensor, x_like: Tensor, y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    weight, weight2, p = arguments[3], arguments[5], arguments[-1]
    same = p == 0.0 and x_like.dtype == y.dtype
    sums = weight.new_empty(1 if weight2 is None else 2, 3, y.shape[1])
    return x_like.new_empty((0,) if same else y.shape), torch.empty_like(y), sums


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, weight, shift, bias, weight2, shift2, bias2, seed, split, _, site, p, _ = inputs
    y, s, mean, rstd = output
    # an output that no one reads would be a gradient of zeros to make
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(s, mean, rstd)
    ctx.save_for_backward(x.new_empty(0), y, s, mean, rstd, weight, shift, weight2, shift2, seed)
    ctx.numbers = split, site, p
    ctx.biases = bias is not None, bias2 is not None


def _gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 14
    dx, dresidual, sums = backward(dy, *ctx.saved_tensors, *ctx.numbers)
    dx = dx if dx.shape == dresidual.shape else dresidual
    (dw, db, dbias), second = sums[0].unbind(0), (None, None, None)
    if len(sums) == 2:
        second = sums[1].unbind(0)
    with_bias, with_bias2 = ctx.biases
    return (
        dx, dresidual, dw, db, dbias if with_bias else None,
        second[0], second[1], second[2] if with_bias2 else None, *[None] * 6,
    )  # fmt: skip


dropout_add_layer_norm.register_autograd(_gradient, setup_context=_keep)


def _streams(
    weight: Tensor,
    shift: Tensor,
    bias: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    bias2: Tensor | None,
) -> tuple[Parameters, Parameters | None]:
    first = Parameters(in_order(weight), in_order(shift), in_order(bias))
    if weight2 is None or shift2 is None:
        return first, None
    return first, Parameters(in_order(weight2), in_order(shift2), in_order(bias2))


def _spans(split: int, rows: int, second: Parameters | None) -> list[tuple[int, int]]:
    return [(0, rows)] if second is None else [(0, split), (split, rows)]


def _rowwise(first: Tensor | None, second: Tensor | None, split: int, rows: int) -> Tensor:
    """(1, H) for all rows, or (N, H)."""
    assert first is not None
    if second is None:
        return first[None]
    return torch.cat([first.expand(split, -1), second.expand(rows - split, -1)])
