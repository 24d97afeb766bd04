"""FLOPs of the CPU's operations that PyTorch's own counter does not know: 2 a multiplication and addition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _linear(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """x (N, in) by weight (out, in)."""
    return 2 * x.numel() * weight[0]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Scores and weighted sum of query (B, heads, T, D) over key and value (B, heads, U, D)."""
    return 2 * query.numel() * key[-2] + 2 * query[:-1].numel() * value[-2] * value[-1]


def _attention_backward(
    grad: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any
) -> int:
    """The scores again, and the gradients of scores, query, key and value: five products for two."""
    return _attention(query, key, value) * 5 // 2


FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.mkldnn._linear_pointwise: _linear,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
KNOWN = {str(packet).replace(".", "::") for packet in FORMULAS}


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter with these formulas."""
    return FlopCounterMode(display=False, custom_mapping=FORMULAS)
