"""Two LayerNorms, their average and dropout: regions to hidden states."""

from .function import embed_regions, fits
from .reference import visual_embedding

__all__ = ["embed_regions", "fits", "visual_embedding"]
