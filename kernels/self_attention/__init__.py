"""Self-attention of one stream (text to text, or objects to objects)."""

from .reference import additive_mask, attention, self_attention

__all__ = ["additive_mask", "attention", "self_attention"]
