"""How the sequences of a test stand, and the shapes that tests take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lxmert_fast.kernels.layout import Layout, dense, packed
from lxmert_fast.kernels.self_attention import additive_mask

CPU = torch.device("cpu")
KINDS = ("dense", "masked", "packed", "packed, masked")


class Shape(NamedTuple):
    """Of two streams."""

    batch: int
    texts: int
    objects: int
    hidden: int
    heads: int

    def __str__(self) -> str:
        return f"B{self.batch}-T{self.texts}-O{self.objects}-H{self.hidden}"


#: Heads of 12, 20 and 64 columns; a tile that is full, one that is not, and several tiles of queries.
ONE = Shape(1, 1, 1, 48, 4)
SMALL = Shape(7, 20, 36, 48, 4)
LONG = Shape(3, 63, 100, 80, 4)
WIDE = Shape(2, 17, 36, 768, 12)
SHAPES = (ONE, SMALL, LONG, WIDE)


def standing(kind: str, batch: int, width: int, dtype: torch.dtype) -> Layout:
    """The same sequences for every dtype.

    Args:
        kind: "dense" keeps all positions and "packed" some; "masked" closes some of those that are kept, in
            one sequence all of them, in one by fractions.
    """
    generator = torch.Generator().manual_seed(batch * width)
    keep = torch.arange(width) < lengths(batch, width)[:, None]
    mask = (torch.rand(batch, width, generator=generator) < 0.7).double()
    mask[:, 0] = 1.0
    mask[-1] = 0.0
    if batch > 2:
        mask[1] = torch.rand(width, generator=generator, dtype=torch.float64)
        mask[1, 0] = 1.0
    bias = additive_mask(mask, dtype) if "masked" in kind else None
    if kind in ("dense", "masked"):
        return dense(batch, width, bias, CPU)
    return packed(keep, bias, dtype, kept=int(keep.sum()), longest=int(keep.sum(1).max()))


def lengths(batch: int, width: int) -> Tensor:
    """From 1 to the width, both of them among several."""
    return torch.linspace(1, width, batch).long().roll(1) if batch > 1 else torch.tensor([width])


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal fp64."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale
