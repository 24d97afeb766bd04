"""Three lookups, LayerNorm and dropout: token ids to hidden states."""

from .reference import text_embedding

__all__ = ["text_embedding"]
