"""FLOPs of operations that PyTorch's own counter does not know: 2 a multiplication and addition.

Those are the CPU's own, and the products within this library's attention, whose table of meetings says which
rows meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import lxmert_fast.kernels.self_attention.op  # noqa: F401 (the operators exist once it is imported)


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


def _meetings(width: int, table: Tensor) -> int:
    """Scores and weighted sum of the query rows and key rows that meet."""
    if table.is_meta:
        return 0  # nobody knows who meets whom
    return 4 * width * int((table[:, 2] * table[:, 5]).sum())


def _of_one_buffer(qkv: Tensor, table: Tensor, *_: Any, **__: Any) -> int:
    return _meetings(qkv.shape[1] // 3, table)


def _of_one_buffer_backward(grad: Tensor, qkv: Tensor, table: Tensor, *_: Any, **__: Any) -> int:
    return _meetings(grad.shape[1], table) * 5 // 2


def _of_two_buffers(query: Tensor, key_value: Tensor, table: Tensor, *_: Any, **__: Any) -> int:
    return _meetings(query.shape[1], table)


def _of_two_buffers_backward(
    grad: Tensor, query: Tensor, key_value: Tensor, table: Tensor, *_: Any, **__: Any
) -> int:
    return _meetings(query.shape[1], table) * 5 // 2


def _seeing_numbers(formula: Callable[..., int]) -> Callable[..., int]:
    """PyTorch's counter gives such a formula tensors, others only shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


_OURS = torch.ops.lxmert_fast
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.mkldnn._linear_pointwise: _linear,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _OURS.self_attention: _seeing_numbers(_of_one_buffer),
    _OURS.self_attention_backward: _seeing_numbers(_of_one_buffer_backward),
    _OURS.cross_attention: _seeing_numbers(_of_one_buffer),
    _OURS.cross_attention_backward: _seeing_numbers(_of_one_buffer_backward),
    _OURS.attention: _seeing_numbers(_of_two_buffers),
    _OURS.attention_backward: _seeing_numbers(_of_two_buffers_backward),
}
KNOWN = {str(packet).replace(".", "::") for packet in FORMULAS}


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter with these formulas."""
    return FlopCounterMode(display=False, custom_mapping=FORMULAS)
