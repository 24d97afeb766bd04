"""The end of a sub-layer as the encoders call it, by the reference or by the operator."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import apex
from ..dispatch import use_apex, use_operators
from ..philox import Seed, draw_seed
from . import reference
from .invertible import invertible
from .parameters import Parameters

#: The widest row that the kernel holds.
MOST_COLUMNS = 4096


def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    shift: Tensor,
    *,
    bias: Tensor | None = None,
    second: Parameters | None = None,
    split: int = 0,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
    seed: Seed | None = None,
) -> Tensor:
    """Dropout, residual sum and LayerNorm of the last dimension.

    Args:
        x: (..., H), the product of the sub-layer's output weights.
        residual: (..., H), the sub-layer's input.
        weight, shift: (H,), the LayerNorm's parameters.
        bias: (H,), the product's bias where it has not been added yet.
        second: parameters of the rows from `split` on, where two streams stand in one buffer (N, H).
        dropout_p: rate; 0 outside training.
        seed: of the operator's dropout; None draws one. The reference asks PyTorch's generator.

    Returns:
        (..., H).
    """
    if use_apex(x) or not use_operators(x) or x.shape[-1] > MOST_COLUMNS:
        first = Parameters(weight, shift, bias)
        one = _by_apex if use_apex(x) else _by_reference
        if second is None:
            return one(x, residual, first, dropout_p, eps)
        parts = (first, slice(None, split)), (second, slice(split, None))
        return torch.cat([one(x[rows], residual[rows], of, dropout_p, eps) for of, rows in parts])
    from .op import dropout_add_layer_norm as operator

    seed = (seed or draw_seed(x.device)) if dropout_p > 0.0 else None
    rows = x.reshape(-1, x.shape[-1])
    needs = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad
        for tensor in (x, residual, weight, shift, bias, *(second or ()))
    )
    keep_sum = needs and not (
        invertible(weight, shift, residual.dtype)
        and (second is None or invertible(second.weight, second.shift, residual.dtype))
    )
    y, _, _, _ = operator(
        rows,
        residual.reshape(-1, x.shape[-1]),
        weight,
        shift,
        bias,
        second and second.weight,
        second and second.shift,
        second and second.bias,
        seed and seed.value,
        len(rows) if second is None else split,
        eps,
        seed.site if seed else 0,
        dropout_p,
        keep_sum,
    )
    return y.view(residual.shape)


def _by_reference(x: Tensor, residual: Tensor, of: Parameters, dropout_p: float, eps: float) -> Tensor:
    return reference.dropout_add_layer_norm(
        x, residual, of.weight, of.shift, bias=of.bias, dropout_p=dropout_p, eps=eps
    )


def _by_apex(x: Tensor, residual: Tensor, of: Parameters, dropout_p: float, eps: float) -> Tensor:
    total = reference.residual_sum(x, residual, of.bias, dropout_p)
    return apex.layer_norm(total, of.weight, of.shift, eps)
