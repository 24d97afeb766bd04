"""Cross attention in both directions, in plain PyTorch: the definition and the CPU path.

    text_out   = attend(q(text),    k(objects), v(objects), object mask)
    object_out = attend(q(objects), k(text),    v(text),    text mask)

LXMERT section 2.1.2, equations for the cross-attention sub-layer. Both directions read the layer's
*inputs*, and one set of query, key and value weights serves both (the original's code shares them,
the paper leaves it open), so the two streams arrive here projected by one product, text rows first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..layout import Layout
from ..self_attention.reference import meet, split_heads


class CrossAttention(NamedTuple):
    """What both directions give: contexts, and probabilities where they were asked for."""

    context: Tensor
    """(N_text + N_objects, H): what each token gathered from the objects, then each object from the text."""
    text_probabilities: Tensor | None
    """(B, heads, T, O)."""
    object_probabilities: Tensor | None
    """(B, heads, O, T)."""


def cross_attention(
    qkv: Tensor, text_rows: int, texts: Layout, objects: Layout, num_heads: int, **settings: Any
) -> CrossAttention:
    """Multi-head attention from text to objects and from objects to text.

    Args:
        qkv: (R, 3H), query, key and value of both streams side by side, `text_rows` rows of text first.
        texts, objects: how the B pairs read them.

    Other arguments: `self_attention.reference.attention`.
    """
    text, boxes = qkv.split([text_rows, qkv.shape[0] - text_rows])
    text_q, text_k, text_v = split_heads(texts.read(text), num_heads, 3)
    object_q, object_k, object_v = split_heads(objects.read(boxes), num_heads, 3)
    from_text, text_probabilities = meet(text_q, object_k, object_v, texts, objects, **settings)
    from_objects, object_probabilities = meet(object_q, text_k, text_v, objects, texts, **settings)
    return CrossAttention(torch.cat([from_text, from_objects]), text_probabilities, object_probabilities)
