"""Cross attention, both directions with shared weights."""

from .reference import CrossAttention, Projected, cross_attention

__all__ = ["CrossAttention", "Projected", "cross_attention"]
