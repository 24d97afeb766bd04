"""Two LayerNorms, their average and dropout: regions to hidden states."""

from .reference import visual_embedding

__all__ = ["visual_embedding"]
