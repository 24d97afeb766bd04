"""Dense bias and exact GELU."""

from .function import bias_gelu, bias_gelu_linear, products
from .reference import gelu_linear

__all__ = ["bias_gelu", "bias_gelu_linear", "gelu_linear", "products"]
