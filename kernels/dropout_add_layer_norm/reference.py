"""The end of every sub-layer, in plain PyTorch: the definition and the CPU path.

    y = LayerNorm(dropout(x + bias) + residual)

Post-LayerNorm residual block of BERT, as LXMERT uses it everywhere (section 2.1.2): each attention
and each feed-forward sub-layer ends with it. eps is 1e-12 and is added to an fp32 variance: in fp16
it would round to zero.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..dropout import dropout


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
    if bias is not None:
        x = x + bias
    if dropout_p > 0.0:
        x = dropout(x, dropout_p)
    return F.layer_norm(x + residual, (x.shape[-1],), weight, shift, eps)
