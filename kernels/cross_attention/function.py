"""Cross attention as the encoder calls it: both directions over layouts, by the reference or one launch.

The kernel is that of self-attention. Of a pair, the text's rows meet the objects' and the objects' meet
the text's: two lines of one table (`meetings.crossing`), so each row is read once and written once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..layout import Layout
from ..meetings import Meetings, crossing
from ..philox import Seed
from ..self_attention.function import by_operator, one_buffer
from . import reference
from .reference import CrossAttention


def cross_attention(
    qkv: Tensor,
    text_rows: int,
    texts: Layout,
    objects: Layout,
    num_heads: int,
    *,
    seed: Seed | None = None,
    meetings: Meetings | None = None,
    **settings: Any,
) -> CrossAttention:
    """Multi-head attention from text to objects and from objects to text.

    Args:
        qkv: (R, 3H), query, key and value of both streams side by side, `text_rows` rows of text first.
        texts, objects: how the B pairs read them.
        meetings: `crossing` of these arguments, where it is at hand.

    Other arguments: `self_attention.self_attention`.
    """
    if not by_operator(qkv, settings, texts, objects):
        return reference.cross_attention(qkv, text_rows, texts, objects, num_heads, **settings)
    met = meetings or crossing(texts, objects, text_rows, len(qkv) - text_rows)
    return CrossAttention(one_buffer("cross_attention", qkv, met, num_heads, settings, seed), None, None)
