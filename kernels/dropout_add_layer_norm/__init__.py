"""Dense bias, dropout, residual and LayerNorm in one operation."""

from .reference import dropout_add_layer_norm

__all__ = ["dropout_add_layer_norm"]
