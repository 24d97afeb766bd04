"""Dropout counted as a GPU runs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class CudaDropout(TorchFunctionMode):
    """PyTorch's dropout as one operation with a mask of bytes: the meta device takes it apart into three."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch."""
        if func is not F.dropout:
            return func(*args, **(kwargs or {}))
        x, p, training = _dropping(*args, **(kwargs or {}))
        return torch.native_dropout(x, p, True)[0] if training and p > 0.0 else x


def _dropping(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool]:
    return input, p, training
