"""Attention as the encoders call it: over layouts, by the reference or by the operators."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..dispatch import MOST_KEYS, use_operators
from ..layout import Layout
from ..meetings import Meetings, between, within
from ..philox import Seed, draw_seed
from . import reference
from .reference import Attended


def self_attention(
    qkv: Tensor, layout: Layout, num_heads: int, *, seed: Seed | None = None, **settings: Any
) -> Attended:
    """Multi-head self-attention of one stream, without any projection.

    Args:
        qkv: (N, 3H), query, key and value side by side.
        layout: which rows belong together.
        num_heads: divides H.
        seed: of the operators' dropout; None draws one. The reference asks PyTorch's generator.
        settings: `dropout_p`, `want_probabilities` and `implementation` of `reference.attend`.

    Returns:
        context (N, H), and probabilities (B, heads, T, T) or None.
    """
    if not by_operator(qkv, settings, layout):
        return reference.self_attention(qkv, layout, num_heads, **settings)
    return one_buffer(
        "self_attention", qkv, layout.meetings or within(layout), num_heads, settings, seed
    ), None


def attention(
    query: Tensor,
    key_value: Tensor,
    queries: Layout,
    keys: Layout,
    num_heads: int,
    *,
    seed: Seed | None = None,
    meetings: Meetings | None = None,
    **settings: Any,
) -> Attended:
    """Multi-head attention from one stream's rows to another's, or from some rows of a stream to all of them.

    Args:
        query: (R, H), rows that `queries` reads.
        key_value: (U, 2H), key and value side by side, rows that `keys` reads.
        queries, keys: layouts of the same B sequences.
        meetings: `between(queries, keys, R, U)`, where it is at hand.

    Other arguments: `self_attention`.

    Returns:
        context (N, H), the rows that `queries` writes, and probabilities (B, heads, T, U) or None.
    """
    if not by_operator(query, settings, queries, keys):
        return reference.attention(query, key_value, queries, keys, num_heads, **settings)
    from .op import attention as operator

    met = meetings or between(queries, keys, len(query), len(key_value))
    readers = [
        x for r in (met.query_readers, met.key_readers) for x in ((r.starts, r.rows) if r else (None, None))
    ]
    p, value, site = dropout_arguments(query, settings, seed)
    context = operator(
        query, key_value, met.table, met.bias, *readers, value, site, p, num_heads, *met.written,
        met.most_queries, met.most_keys,
    )  # fmt: skip
    return context, None


def by_operator(x: Tensor, settings: dict[str, Any], *layouts: Layout) -> bool:
    """Whether an operator serves: not where probabilities are wanted or a sequence is too long for it."""
    return (
        use_operators(x)
        and not settings.get("want_probabilities")
        and all(layout.width <= MOST_KEYS for layout in layouts)
    )


def one_buffer(
    name: str, qkv: Tensor, met: Meetings, num_heads: int, settings: dict[str, Any], seed: Seed | None
) -> Tensor:
    """The operator of one buffer of query, key and value."""
    from . import op

    p, value, site = dropout_arguments(qkv, settings, seed)
    readers = met.query_readers
    return getattr(op, name)(
        qkv, met.table, met.bias, readers and readers.starts, readers and readers.rows, value, site, p,
        num_heads, met.written[0], met.most_queries, met.most_keys,
    )  # fmt: skip


def dropout_arguments(
    x: Tensor, settings: dict[str, Any], seed: Seed | None
) -> tuple[float, Tensor | None, int]:
    """Rate, seed and site of an operator."""
    p = float(settings.get("dropout_p", 0.0))
    if p == 0.0:
        return 0.0, None, 0
    seed = seed or draw_seed(x.device)
    return p, seed.value, seed.site
