"""One process, one device, behind the four calls of a DeepSpeed engine.

    output = engine(**inputs)      engine.backward(output.loss)
    engine.step()                  engine.save_checkpoint(folder, tag, client_state)

The loop (`loop.py`) knows only these and a few read-only facts, all named as DeepSpeed names them, so that
the launcher's engine takes this one's place without a second loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lxmert_fast.errors import InputError

from .checkpoints import read_checkpoint, write_checkpoint


class LocalEngine:
    """Forward, backward, clipped update and checkpoint of a model on one device.

    Args:
        model: returns an output with `.loss`.
        optimizer, schedule: stepped once an update.
        accumulation: backward passes an update; losses are divided by it.
        clip: largest global L2 norm of the gradients, over all parameters.
        precision: "fp32", or "bf16" for autocast.
        device: "auto", "cpu", "cuda", ...
        keep: checkpoints kept on disk.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        schedule: LambdaLR,
        *,
        accumulation: int = 1,
        clip: float = 1.0,
        precision: str = "fp32",
        device: str = "auto",
        keep: int = 2,
    ) -> None:
        self.device = pick_device(device)
        self.module = model.to(self.device)
        self.optimizer = optimizer
        self.lr_scheduler = schedule
        self.accumulation = accumulation
        self.clip = clip
        self.autocast = precision == "bf16"
        self.keep = keep
        self.micro_steps = 0
        self.global_steps = 0
        self._grad_norm: float | None = None

    def __call__(self, **inputs: Any) -> Any:
        """Run the model on inputs that may lie on another device."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.module(**to_device(inputs, self.device))

    def backward(self, loss: Tensor) -> None:
        """Add this batch's share to the gradients."""
        (loss / self.accumulation).backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next `step` updates the weights."""
        return (self.micro_steps + 1) % self.accumulation == 0

    def step(self) -> None:
        """Count a batch; on the last one of an update clip, update, advance the schedule.

        Raises:
            FloatingPointError: the gradient norm is not finite; the weights have not been touched.
        """
        if self.is_gradient_accumulation_boundary():
            norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), self.clip))
            if norm != norm or norm == float("inf"):
                raise FloatingPointError(f"gradient norm is {norm}")
            self._grad_norm = norm
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.global_steps += 1
        self.micro_steps += 1

    def get_global_grad_norm(self) -> float | None:
        """Norm before clipping at the last update; None before the first."""
        return self._grad_norm

    def get_lr(self) -> list[float]:
        """Learning rate of the next update, one a parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def save_checkpoint(self, folder: Path, tag: str, client_state: dict[str, Any]) -> Path:
        """Write everything the next step depends on, atomically; call it between updates only."""
        state = {
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.lr_scheduler.state_dict(),
            "micro_steps": self.micro_steps,
            "global_steps": self.global_steps,
            "cpu_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "client_state": client_state,
        }
        return write_checkpoint(folder, tag, state, self.keep)

    def load_checkpoint(self, folder: Path) -> tuple[Path | None, dict[str, Any]]:
        """Restore the newest readable checkpoint of a folder.

        Returns:
            Its path and client state, or (None, {}) where there is none.

        Raises:
            InputError: the checkpoint is of another model.
        """
        path, state = read_checkpoint(folder)
        if path is None:
            return None, {}
        try:
            self.module.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{path}: does not fit this run's model or optimizer: {reason}") from None
        self.lr_scheduler.load_state_dict(state["schedule"])
        self.micro_steps, self.global_steps = state["micro_steps"], state["global_steps"]
        torch.set_rng_state(state["cpu_rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        return path, state["client_state"]


def pick_device(name: str) -> torch.device:
    """The device of a configuration file's name.

    Raises:
        InputError: an unknown name, or a GPU where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"run.device: {name!r} is no device, wanted auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"run.device: {name!r} asked for, but PyTorch sees no GPU")
    return device


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors inside dicts and tuples moved to a device; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(to_device(item, device) for item in value)
    return value
