"""When weights may have changed without their version counters.

PyTorch counts changes in place per tensor, and an optimizer that writes through `.data`, or by a kernel of
its own, moves no counter: DeepSpeed's do, which copy a flat buffer over the model's. So what is kept of a
weight also remembers how many optimizer steps there had been in this process.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

_steps = 0


def optimizer_steps() -> int:
    """Steps of all `torch.optim.Optimizer`s of this process."""
    return _steps


def version(weight: Tensor) -> int:
    """A tensor's own counter; 0 of an inference tensor, which never changes in place."""
    return 0 if weight.is_inference() else weight._version


def _count(*_: Any) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count)
