"""Attention over short rows, in plain PyTorch: the definition and the CPU path.

    scores[h, i, j] = <q[h, i], k[h, j]> / sqrt(D) + mask[j]
    p               = softmax_j(scores)                  statistics in fp32
    out[h, i]       = sum_j dropout(p)[h, i, j] v[h, j]

LXMERT section 2.1.2 ("attention layers"); D is the head width, the mask is additive.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ..dropout import dropout
from ..layout import Layout

Attended: TypeAlias = tuple[Tensor, Tensor | None]
"""A context and, where wanted, the probabilities."""


def split_heads(x: Tensor, num_heads: int, parts: int) -> tuple[Tensor, ...]:
    """(B, T, parts * H) to `parts` tensors (B, heads, T, D).

    With gradients they are made contiguous together: the products would copy each on its own and keep the
    copies for backward.
    """
    split = x.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (split.contiguous() if torch.is_grad_enabled() else split).unbind(0)


def join_heads(x: Tensor) -> Tensor:
    """(B, heads, T, D) to (B, T, heads * D)."""
    return x.transpose(1, 2).flatten(2)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a key mask into what is added to the scores.

    Args:
        mask: (B, T), 1 where a position may be attended to, 0 where not; fractions interpolate.
        dtype: the dtype of the model.

    Returns:
        (B, T) in `dtype`: `(1 - mask) * finfo(dtype).min`, Hugging Face's constant. A sequence whose keys are
        all masked attends to them uniformly.
    """
    return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout_p: float = 0.0,
    want_probabilities: bool = False,
    implementation: str = "eager",
) -> Attended:
    """One direction of attention with the heads already split.

    Args:
        query: (B, heads, T, D).
        key, value: (B, heads, U, D).
        mask: additive, broadcastable to (B, heads, T, U), or None.
        dropout_p: rate of dropout on the probabilities (the kept ones are scaled by 1 / (1 - p)).
        want_probabilities: also return what the values were weighted with, after dropout, as the
            reference does.
        implementation: "eager" spells the formula out; "sdpa" hands it to PyTorch's fused operator
            where that is exact (no probabilities, no gradients: its backward is wrong for fully masked
            rows, whose log-sum-exp swallows the number of keys) and faster (no dropout).

    Returns:
        context (B, heads, T, D) and probabilities (B, heads, T, U) or None.
    """
    fused = implementation == "sdpa" and not (
        want_probabilities or dropout_p > 0.0 or torch.is_grad_enabled()
    )
    # fp16's smallest value does not swallow the fp32 scores of a fully masked row: there the formula
    if fused and (mask is None or query.dtype is not torch.float16):
        if mask is not None and mask.dtype is not query.dtype:
            # under autocast the mask is fp32, whose smallest value would be -inf in bf16
            lowest = mask.clamp(min=torch.finfo(query.dtype).min)
            mask = torch.where(mask.isinf(), mask, lowest).to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask), None
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
    # fp16: finfo.min plus a score below -16 would overflow to -inf
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    if mask is not None:
        scores = scores + (mask.float() * 1e30 if mask.dtype is torch.float16 else mask)
    probabilities = torch.softmax(scores, dim=-1).to(query.dtype)
    if dropout_p > 0.0:
        probabilities = dropout(probabilities, dropout_p)
    return torch.matmul(probabilities, value), probabilities if want_probabilities else None


def meet(
    query: Tensor, key: Tensor, value: Tensor, queries: Layout, keys: Layout, **settings: Any
) -> Attended:
    """`attend`, from heads that have been read to rows (N, H) that `queries` writes."""
    context, probabilities = attend(query, key, value, keys.mask, **settings)
    return queries.write(join_heads(context)), probabilities


def attention(
    query: Tensor, key_value: Tensor, queries: Layout, keys: Layout, num_heads: int, **settings: Any
) -> Attended:
    """Multi-head attention from one stream's rows to another's, or from some rows of a stream to all of them.

    Args:
        query: (R, H), rows that `queries` reads.
        key_value: (U, 2H), key and value side by side, rows that `keys` reads.
        queries, keys: layouts of the same B sequences.
        settings: `dropout_p`, `want_probabilities` and `implementation` of `attend`.

    Returns:
        context (N, H), the rows that `queries` writes, and probabilities (B, heads, T, U) or None.
    """
    (q,) = split_heads(queries.read(query), num_heads, 1)
    k, v = split_heads(keys.read(key_value), num_heads, 2)
    return meet(q, k, v, queries, keys, **settings)


def self_attention(qkv: Tensor, layout: Layout, num_heads: int, **settings: Any) -> Attended:
    """Multi-head self-attention of one stream, without any projection.

    Args:
        qkv: (N, 3H), query, key and value side by side.
        layout: which rows belong together.

    Other arguments and what is returned: `attention`.
    """
    q, k, v = split_heads(layout.read(qkv), num_heads, 3)
    return meet(q, k, v, layout, layout, **settings)
