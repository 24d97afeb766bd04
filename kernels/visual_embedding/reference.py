"""The object-level image embedding, in plain PyTorch: the definition and the CPU path.

    v_j = dropout((LayerNorm(W_F f_j + b_F) + LayerNorm(W_P p_j + b_P)) / 2)

LXMERT section 2.1.1, the equations of "object-level image embeddings": f_j is the detector's feature,
p_j the box in [0, 1]. The dropout comes after the average; the paper does not show it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..dropout import dropout


def visual_embedding(
    feature: Tensor,
    box: Tensor,
    feature_norm: tuple[Tensor, Tensor],
    box_norm: tuple[Tensor, Tensor],
    *,
    dropout_p: float = 0.0,
    eps: float = 1e-12,
) -> Tensor:
    """Average of the two normalised projections.

    Args:
        feature: (I, O, H), the projected features W_F f + b_F.
        box: (I, O, H), the projected boxes W_P p + b_P.
        feature_norm, box_norm: weight (H,) and shift (H,) of the two LayerNorms.
        dropout_p: rate; 0 outside training.

    Returns:
        (I, O, H).
    """
    x = _layer_norm(feature, *feature_norm, eps)
    y = _layer_norm(box, *box_norm, eps)
    average = (x + y) / 2
    return dropout(average, dropout_p) if dropout_p > 0.0 else average


def _layer_norm(x: Tensor, weight: Tensor, shift: Tensor, eps: float) -> Tensor:
    size = (x.shape[-1],)
    if x.dtype is not torch.float16:
        return F.layer_norm(x, size, weight, shift, eps)
    # An object hidden by zeros is a row of b_F, all zeros in a new model: 1 / sqrt(0 + eps) = 1e6, which
    # PyTorch's CPU kernel keeps as a half, infinity, and multiplies by 0 in backward.
    return F.layer_norm(x.float(), size, weight.float(), shift.float(), eps).to(x.dtype)
