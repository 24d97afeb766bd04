"""Cross attention, both directions with shared weights."""

from .reference import CrossAttention, cross_attention

__all__ = ["CrossAttention", "cross_attention"]
