"""Cross attention, both directions with shared weights."""

from .function import cross_attention
from .reference import CrossAttention

__all__ = ["CrossAttention", "cross_attention"]
