"""Self-attention of one stream (text to text, or objects to objects)."""

from .reference import additive_mask, self_attention

__all__ = ["additive_mask", "self_attention"]
