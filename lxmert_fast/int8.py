"""Answering with 8-bit integer products on a CPU.

    y = s_x (x_q W_q^T) s_w + b,   x_q = round(x / s_x),   W_q = round(W / s_w)

Weights have one scale an output row, found once; activations one scale a token or region, found at each call
(127 steps to its largest magnitude). The products are exact 32-bit integers, from oneDNN, which uses AMX or
VNNI where the processor has them. Attention, LayerNorm and GELU stay fp32, and so do the pooler and the
heads: they are small, and the answer is read there.

This is an approximation, the only one in the library: say how often it agrees with fp32 on your model
(`lxmert-fast evaluate --int8` prints the score that it reaches).
"""

from __future__ import annotations

import copy
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .errors import InputError
from .modeling import LxmertEncoder, LxmertModel

M = TypeVar("M", bound=nn.Module)
_LEVELS = 127
_SMALLEST = 1e-30


class Int8Linear(nn.Module):
    """A linear layer whose product is one of integers."""

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        # a row of zeros has no largest magnitude to divide by
        scale = (weight.abs().amax(1) / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        zeros = weight.new_zeros(len(weight))
        self.register_buffer("bias", zeros if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Rows (N, in) fp32 to (N, out) fp32."""
        return self.together(x, (self,))

    @staticmethod
    def together(x: Tensor, layers: tuple[Int8Linear, ...]) -> Tensor:
        """Several layers that read the same rows, side by side: x is rounded once."""
        prepared = _PREPARED.setdefault(layers[0], {})
        if len(layers) not in prepared:
            prepared[len(layers)] = _prepare(layers)
        weight, scale, bias, zero_points = prepared[len(layers)]
        if not len(x):
            return x.new_zeros(0, len(scale))
        steps = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True).clamp_(min=_SMALLEST) / _LEVELS
        whole = torch.div(x, steps).round_().to(torch.int8)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 0, weight, scale, zero_points, None, 1.0, 0, torch.float32, "none", [], "none"
        )
        return torch.addcmul(bias, product, steps)


#: Weights in oneDNN's layout, by first layer and number of layers; they never change.
_PREPARED: WeakKeyDictionary[nn.Module, dict[int, tuple[Tensor, ...]]] = WeakKeyDictionary()


def _prepare(layers: tuple[Int8Linear, ...]) -> tuple[Tensor, ...]:
    weight, scale, bias = (
        torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "scale", "bias")
    )
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed, scale, bias, torch.zeros(len(scale), dtype=torch.int64)


def quantize(model: M) -> M:
    """A copy of a model in evaluation mode whose encoders multiply 8-bit integers.

    Args:
        model: one of this library's models, or one of transformers' after `accelerate`, in fp32 on the CPU.

    Raises:
        InputError: another kind of model, another dtype or device, or a PyTorch without oneDNN.
    """
    backbones = [module for module in model.modules() if isinstance(module, LxmertModel)]
    if not backbones:
        raise InputError(f"quantize got a {type(model).__name__}, wanted a model of this library")
    if not torch.backends.mkldnn.is_available():
        raise InputError("quantize needs oneDNN, which this PyTorch was built without")
    for name, p in model.named_parameters():
        if p.device.type != "cpu" or p.dtype is not torch.float32:
            raise InputError(f"quantize: {name} is {p.dtype} on {p.device}, wanted torch.float32 on cpu")
    smaller = copy.deepcopy(model).eval()
    for module in smaller.modules():
        if isinstance(module, LxmertEncoder):
            _quantize_children(module)
    return smaller


def _quantize_children(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        if type(child) is nn.Linear and child.in_features >= 16:
            setattr(parent, name, Int8Linear(child))
        else:
            _quantize_children(child)
