"""The parameters of one stream's residual block."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Parameters(NamedTuple):
    """(H,) each."""

    weight: Tensor
    shift: Tensor
    bias: Tensor | None = None
    """Of the product before, where it has not been added yet."""
