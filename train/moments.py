"""What BertAdam and LAMB share: two moments of the gradient, as a handful of foreach operations a step.

    m <- b1 m + (1 - b1) g
    v <- b2 v + (1 - b2) g^2
    p <- p - lr u(m, v, p)

u is the optimizer's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class MomentOptimizer(Optimizer):
    """Groups have "lr" and "betas"; a parameter without gradient neither moves nor decays."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            first = [self.state[p]["exp_avg"] for p in params]
            second = [self.state[p]["exp_avg_sq"] for p in params]
            beta1, beta2 = group["betas"]

            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, grads, alpha=1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, grads, grads, value=1 - beta2)
            torch._foreach_add_(params, self._updates(group, params, first, second), alpha=-group["lr"])
        return loss

    @abstractmethod
    def _updates(
        self, group: dict[str, Any], params: list[Tensor], first: list[Tensor], second: list[Tensor]
    ) -> tuple[Tensor, ...] | list[Tensor]:
        """u of each parameter; the moments are not changed."""
