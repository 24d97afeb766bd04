"""Dense bias and exact GELU."""

from .reference import bias_gelu

__all__ = ["bias_gelu"]
