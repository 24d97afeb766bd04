"""Cross attention in both directions, in plain PyTorch: the definition and the CPU path.

    text_out   = attend(q(text),    k(objects), v(objects), object mask)
    object_out = attend(q(objects), k(text),    v(text),    text mask)

LXMERT section 2.1.2, equations for the cross-attention sub-layer. Both directions read the layer's
*inputs*, and one set of query, key and value weights serves both (the original's code shares them,
the paper leaves it open), so the two streams arrive here already projected.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..self_attention.reference import attend, join_heads, split_heads


class Projected(NamedTuple):
    """Query, key and value of one stream, each (B, T, H)."""

    query: Tensor
    key: Tensor
    value: Tensor


class CrossAttention(NamedTuple):
    """What both directions give: contexts, and probabilities where they were asked for."""

    text: Tensor
    """(B, T, H): what each token gathered from the objects."""
    objects: Tensor
    """(B, O, H): what each object gathered from the text."""
    text_probabilities: Tensor | None
    """(B, heads, T, O)."""
    object_probabilities: Tensor | None
    """(B, heads, O, T)."""


def cross_attention(
    text: Projected,
    objects: Projected,
    text_mask: Tensor | None,
    object_mask: Tensor | None,
    num_heads: int,
    *,
    dropout_p: float = 0.0,
    want_probabilities: bool = False,
    implementation: str = "eager",
) -> CrossAttention:
    """Multi-head attention from text to objects and from objects to text.

    Args:
        text: projections of (B, T, H).
        objects: projections of (B, O, H).
        text_mask: (B, 1, 1, T) additive over text keys, or None.
        object_mask: (B, 1, 1, O) additive over object keys, or None.

    Other arguments: `self_attention.reference.attend`.
    """
    text_heads = Projected(*(split_heads(x, num_heads) for x in text))
    object_heads = Projected(*(split_heads(x, num_heads) for x in objects))

    def direction(queries: Projected, keys: Projected, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        context, probabilities = attend(
            queries.query,
            keys.key,
            keys.value,
            mask,
            dropout_p=dropout_p,
            want_probabilities=want_probabilities,
            implementation=implementation,
        )
        return join_heads(context), probabilities

    text_context, text_probabilities = direction(text_heads, object_heads, object_mask)
    object_context, object_probabilities = direction(object_heads, text_heads, text_mask)
    return CrossAttention(text_context, object_context, text_probabilities, object_probabilities)
