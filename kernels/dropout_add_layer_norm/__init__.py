"""Dense bias, dropout, residual and LayerNorm in one operation."""

from .function import dropout_add_layer_norm
from .parameters import Parameters

__all__ = ["Parameters", "dropout_add_layer_norm"]
