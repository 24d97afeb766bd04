"""`torch.compile` for the encoders: one graph, with symbolic sizes.

What a batch's plan is depends on the numbers in its masks, which no graph can hold; carrying it out does
not. So the plan is made as ever and `LxmertModel.run` alone is compiled. Its sizes (pairs, texts, images,
kept rows, places of a sequence) are symbols, and a batch of other sizes runs the same code; PyTorch compiles
anew only for a size of 1 and where two sizes happened to be equal at first.

`torch.compile(model, fullgraph=True, dynamic=True)` works as well. It keeps every position, as it cannot
plan.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from .errors import InputError
from .modeling import LxmertModel

M = TypeVar("M", bound=nn.Module)


def compile_model(model: M, backend: str = "inductor") -> M:
    """Compile the encoders of a model, in place; the first batches take a minute or more.

    Args:
        model: one of this library's models, or one of transformers' after `accelerate`.
        backend: of `torch.compile`.

    Returns:
        The model.

    Raises:
        InputError: another kind of model.
    """
    backbones = [module for module in model.modules() if isinstance(module, LxmertModel)]
    if not backbones:
        raise InputError(f"compile_model got a {type(model).__name__}, wanted a model of this library")
    for backbone in backbones:
        # as an attribute of the instance: the class and other models stay as they are
        backbone.__dict__["run"] = torch.compile(
            type(backbone).run.__get__(backbone), fullgraph=True, dynamic=True, backend=backend
        )
    return model
