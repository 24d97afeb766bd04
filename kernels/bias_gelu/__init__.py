"""Dense bias and exact GELU."""

from .reference import bias_gelu, gelu_linear

__all__ = ["bias_gelu", "gelu_linear"]
