"""Networks that a test names as `tiny_backbones:NAME`."""

from __future__ import annotations

import torch
from torch import nn


def colours_and_edges() -> nn.Module:
    """Six channels on a map of a quarter of the side: block means, and the same with a ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 6, 1), nn.ReLU())


ready = nn.AvgPool2d(8)
flat = nn.Flatten()
number = 3


class Huge(nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pictures, 4) * 1e6
