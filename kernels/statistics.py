"""What a LayerNorm asks of its rows, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each row, (N, 1) of (N, H). Of no rows too, where `torch.var_mean` warns."""
    mean = x.mean(1, keepdim=True)
    return mean, ((x - mean).square().mean(1, keepdim=True) + eps).rsqrt()
