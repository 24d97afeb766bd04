"""LAMB, for whole parameters and for ZeRO's flat partitions (You et al. 2020, arXiv 1904.00962)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .moments import MomentOptimizer

if TYPE_CHECKING:
    from .segments import Segments


class Lamb(MomentOptimizer):
    """Adam's update, made as long as its parameter (algorithm 2), as foreach operations.

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) g^2
        u <- (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay p
        p <- p - lr |p| / |u| u

    |p| / |u| is of each parameter; where either norm is 0 it counts as 1. The paper's phi is the identity: no
    norm is clamped. A parameter without gradient is left alone. Clipping and schedule are outside.

    Under ZeRO the parameters of this class are flat partitions: call `share_norms` (`segments.py`), or each
    partition is taken for one parameter.

    Args:
        params: parameters or groups.
        lr: learning rate before scheduling.
        betas: decay of the two moments.
        eps: added to the root.
        weight_decay: decoupled; part of the update that the ratio scales.
        bias_correction: divide the moments by 1 - b^t.
    """

    #: By flat partition, what is in it.
    segments: Mapping[Tensor, Segments] = {}

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
        }
        super().__init__(params, defaults)

    def _updates(
        self, group: dict[str, Any], params: list[Tensor], first: list[Tensor], second: list[Tensor]
    ) -> tuple[Tensor, ...] | list[Tensor]:
        for p in params:
            self.state[p]["step"] = self.state[p].get("step", 0) + 1
        beta1, beta2 = group["betas"]
        steps = [self.state[p]["step"] if group["bias_correction"] else None for p in params]
        root = torch._foreach_div(second, [_correction(beta2, t) for t in steps])
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, group["eps"])
        update = torch._foreach_div(first, root)
        torch._foreach_div_(update, [_correction(beta1, t) for t in steps])
        if group["weight_decay"]:
            torch._foreach_add_(update, params, alpha=group["weight_decay"])
        self._scale(params, update)
        return update

    def _scale(self, params: list[Tensor], updates: tuple[Tensor, ...] | list[Tensor]) -> None:
        """Multiply each update by its parameter's trust ratio, in place."""
        whole = [pair for pair in zip(params, updates, strict=True) if pair[0] not in self.segments]
        if whole:
            _multiply([u for _, u in whole], _norms([[p for p, _ in whole], [u for _, u in whole]]))
        for p, u in zip(params, updates, strict=True):
            if p in self.segments:
                segments = self.segments[p]
                pieces = segments.cut(u)
                _multiply(pieces, segments.whole(_norms([segments.cut(p), pieces], like=p)))


def _correction(beta: float, step: int | None) -> float:
    return 1.0 if step is None else 1.0 - beta**step


def _norms(rows: list[list[Tensor]], like: Tensor | None = None) -> Tensor:
    """(rows, tensors in a row)."""
    if not rows[0]:
        assert like is not None
        return like.new_zeros(len(rows), 0)
    return torch.stack([torch.stack(list(torch._foreach_norm(row))) for row in rows])


def _multiply(updates: list[Tensor], norms: Tensor) -> None:
    of_weight, of_update = norms
    ratios = torch.where((of_weight > 0) & (of_update > 0), of_weight / of_update, 1.0)
    if updates:
        torch._foreach_mul_(updates, list(ratios.unbind()))
