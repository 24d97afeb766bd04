"""Self-attention and feed-forward of both streams of a cross-modality layer, each launch serving both.

Text and objects stand in one buffer, text first, and each stream has its own weights. The matrix products are
two, into one result; attention, LayerNorm and GELU are one launch for both, since a program of theirs knows
which stream its rows belong to. With the cross attention before it a layer makes 16 launches in inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUActivation

from .dense import forget_joined_weights, has_hooks, joined_parameters, leaves_bias
from .kernels.bias_gelu import bias_gelu_linear, products
from .kernels.dispatch import use_operators
from .kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm
from .kernels.meetings import Meetings
from .kernels.philox import Seed, part
from .kernels.self_attention.function import one_buffer

if TYPE_CHECKING:
    from .modeling import LxmertResidual, LxmertXLayer


def can_go_together(layer: LxmertXLayer, rows: Tensor) -> bool:
    """Whether both streams are plain: no hook, no adapter, one rate of dropout, exact GELU."""
    if not use_operators(rows) or torch.compiler.is_compiling():
        return False
    streams = (
        (layer.lang_self_att, layer.lang_inter, layer.lang_output),
        (layer.visn_self_att, layer.visn_inter, layer.visn_output),
    )
    linear = [
        x
        for attention, inner, outer in streams
        for x in (
            attention.self.query,
            attention.self.key,
            attention.self.value,
            attention.output.dense,
            inner.dense,
            outer.dense,
        )
    ]
    if not leaves_bias(rows, *linear):
        return False
    modules = [x for stream in streams for top in stream for x in top.modules()]
    first, second = (
        [x.p for top in stream for x in top.modules() if isinstance(x, nn.Dropout)] for stream in streams
    )
    return (
        not any(map(has_hooks, modules))
        # attention, its output, the feed-forward output; one launch has one rate
        and first == second
        and all(isinstance(inner.intermediate_act_fn, GELUActivation) for _, inner, _ in streams)
    )


def both_streams(
    layer: LxmertXLayer, rows: Tensor, split: int, own: Meetings, seed: Seed | None = None
) -> Tensor:
    """Rows (N, H) after cross attention, `split` rows of text first, to rows (N, H)."""
    text, objects = layer.lang_self_att, layer.visn_self_att
    projections = [(a.self.query, a.self.key, a.self.value) for a in (text, objects)]
    context = one_buffer(
        "self_attention",
        joined_products(rows, split, projections),
        own,
        text.self.num_attention_heads,
        text.self.settings(),
        part(seed, 0),
    )
    weights = text.output.dense.weight, objects.output.dense.weight
    rows = _end(
        split_products(context, split, weights), rows, split, (text.output, objects.output), part(seed, 1)
    )
    inner = layer.lang_inter.dense, layer.visn_inter.dense
    outer = layer.lang_output, layer.visn_output
    x = split_products(rows, split, tuple(x.weight for x in inner))
    biases = tuple(x.bias for x in inner)
    x = bias_gelu_linear(x, biases, tuple(x.dense.weight for x in outer), split)
    return _end(x, rows, split, outer, part(seed, 2))


def _end(
    x: Tensor,
    residual: Tensor,
    split: int,
    blocks: tuple[LxmertResidual, LxmertResidual],
    seed: Seed | None,
) -> Tensor:
    first, second = (Parameters(b.LayerNorm.weight, b.LayerNorm.bias, b.dense.bias) for b in blocks)
    return dropout_add_layer_norm(
        x,
        residual,
        first.weight,
        first.shift,
        bias=first.bias,
        second=second,
        split=split,
        dropout_p=blocks[0].dropout.p if blocks[0].training else 0.0,
        seed=seed,
    )


def split_products(x: Tensor, split: int, weights: tuple[Tensor, ...]) -> Tensor:
    """Each stream's rows (N, in) times its own weights (out, in): (N, out)."""
    if torch.is_grad_enabled():
        return _SplitProducts.apply(x, split, *weights)
    return products(x, split, weights)


class _SplitProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, *weights: Tensor) -> Tensor:
        ctx.split = split
        ctx.save_for_backward(x, *weights)
        return products(x, split, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        (grad,) = grads
        of_x = products(grad, ctx.split, tuple(weights), transposed=True)
        return of_x, None, *(grad[rows].t() @ x[rows] for rows in _spans(ctx.split))


def joined_products(x: Tensor, split: int, layers: Sequence[tuple[nn.Module, ...]]) -> Tensor:
    """Each stream's rows through its own query, key and value, side by side: (N, 3H)."""
    if torch.is_grad_enabled():
        # as in `dense`, an optimizer may come between this call and the next one without gradients
        for stream in layers:
            forget_joined_weights(stream[0])
        parameters = [p for stream in layers for p in (*_of(stream, "weight"), *_of(stream, "bias"))]
        return _JoinedProducts.apply(x, split, len(layers[0]), *parameters)
    return _joined_products(x, split, [joined_parameters(stream) for stream in layers])


def _joined_products(x: Tensor, split: int, joined: list[tuple[Tensor, Tensor]]) -> Tensor:
    out = x.new_empty(len(x), joined[0][0].shape[0])
    for rows, (weight, bias) in zip(_spans(split), joined, strict=True):
        torch.addmm(bias, x[rows], weight.t(), out=out[rows])
    return out


class _JoinedProducts(torch.autograd.Function):
    """Weights are joined for the product, and again in backward: a copy is less than what keeping costs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, count: int, *parameters: Tensor) -> Tensor:
        ctx.split, ctx.count = split, count
        streams = parameters[: 2 * count], parameters[2 * count :]
        ctx.save_for_backward(x, *(p for stream in streams for p in stream[:count]))
        joined = [(torch.cat(stream[:count]), torch.cat(stream[count:])) for stream in streams]
        return _joined_products(x, split, joined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        (grad,) = grads
        streams = weights[: ctx.count], weights[ctx.count :]
        of_x = products(grad, ctx.split, tuple(map(torch.cat, streams)), transposed=True)
        of_parameters = []
        for rows, stream in zip(_spans(ctx.split), streams, strict=True):
            widths = [len(weight) for weight in stream]
            of_parameters += (grad[rows].t() @ x[rows]).split(widths)
            of_parameters += grad[rows].sum(0).split(widths)
        return of_x, None, None, *of_parameters


def _of(layers: tuple[nn.Module, ...], name: str) -> list[Any]:
    return [getattr(layer, name) for layer in layers]


def _spans(split: int) -> tuple[slice, slice]:
    return slice(None, split), slice(split, None)
