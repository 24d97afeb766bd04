"""Three lookups, LayerNorm and dropout: token ids to hidden states."""

from .function import embed_text, fits
from .reference import text_embedding

__all__ = ["embed_text", "fits", "text_embedding"]
