"""Self-attention of one stream (text to text, or objects to objects)."""

from .function import attention, self_attention
from .reference import additive_mask

__all__ = ["additive_mask", "attention", "self_attention"]
