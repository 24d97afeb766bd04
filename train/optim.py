"""Optimisers and the learning-rate schedule.

BertAdam is written here because the numbers depend on it: no bias correction, eps outside the root,
decay on every parameter, scaled by the scheduled rate. LAMB (`lamb.py`) is, because no library's is exact on
ZeRO's partitions. AdamW comes from PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from .lamb import Lamb
from .moments import MomentOptimizer


class BertAdam(MomentOptimizer):
    """The original's optimiser (reference 2.6), as a handful of foreach operations a step.

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) g^2
        p <- p - lr (m / (sqrt(v) + eps) + weight_decay p)

    No bias correction, and decay on every parameter, biases and LayerNorms included. A parameter without
    gradient is left alone: it neither moves nor decays. Clipping and schedule are outside.

    Args:
        params: parameters or groups.
        lr: learning rate before scheduling.
        betas: decay of the two moments.
        eps: added to the root.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _updates(
        self, group: dict[str, Any], params: list[Tensor], first: list[Tensor], second: list[Tensor]
    ) -> tuple[Tensor, ...] | list[Tensor]:
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, group["eps"])
        update = torch._foreach_div(first, root)
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
        return update


def warmup_linear(step: int, total: int, warmup: float) -> float:
    """Factor of the peak learning rate: up from 0 over the first share of the steps, then down to 0.

    Args:
        step: updates done so far; the first update therefore has rate 0, as in the original.
        total: updates of the whole run.
        warmup: share of them, in [0, 1).
    """
    x = step / total
    if x < warmup:
        return x / warmup
    return max((x - 1.0) / (warmup - 1.0), 0.0)


def make_schedule(optimizer: Optimizer, total: int, warmup: float) -> LambdaLR:
    """`warmup_linear` over `total` updates."""
    return LambdaLR(optimizer, lambda step: warmup_linear(step, total, warmup))


def parameter_groups(model: nn.Module, late: Mapping[str, int]) -> list[dict[str, Any]]:
    """The trained parameters, those that get their first gradient in a later epoch in groups of their own.

    Args:
        late: prefix of names to that epoch; the group has it as "first_epoch".
    """
    groups: dict[int, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            epoch = max((first for prefix, first in late.items() if name.startswith(prefix)), default=0)
            groups.setdefault(epoch, {"params": [], "first_epoch": epoch})["params"].append(parameter)
    return [groups[epoch] for epoch in sorted(groups)]


def decay_from_first_epoch(optimizer: Optimizer, epoch: int) -> None:
    """Keep parameters from decaying in epochs in which they have no gradient.

    BertAdam leaves a parameter without gradient alone. In ZeRO's flat partitions such a parameter has a
    gradient of zeros and would decay; without decay, zeros move nothing.
    """
    for group in optimizer.param_groups:
        decay = group.setdefault("own_decay", group["weight_decay"])
        group["weight_decay"] = decay if epoch >= group.get("first_epoch", 0) else 0.0


def make_optimizer(name: str, params: Iterable, lr: float, weight_decay: float) -> Optimizer:
    """Build an optimiser by its name in a configuration file: "bertadam", "lamb" or "adamw"."""
    if name == "bertadam":
        return BertAdam(params, lr=lr, weight_decay=weight_decay)
    if name == "lamb":
        return Lamb(params, lr=lr, weight_decay=weight_decay)
    return torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay)
