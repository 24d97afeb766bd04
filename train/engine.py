"""What the loop asks of an engine, and the engine of one process.

    output = engine(**inputs)      engine.backward(loss)      engine.step()

The calls are named as DeepSpeed names them, so the launcher's engine (`deepspeed_engine.py`) takes this one's
place without a second loop. Checkpoints are the same whoever writes them (`shards.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lxmert_fast.errors import InputError

from .checkpoints import Checkpoint, CheckpointFolder
from .ranks import Ranks
from .shard_reader import ShardReader
from .shards import Piece, collect, restore, shapes_of, whole_pieces

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(ABC):
    """Forward, backward, clipped update and checkpoint of a model.

    An update is `accumulation` times forward, backward and step. Gradients are averaged over forward passes
    and ranks; whoever wants another mean weighs the losses (`shares.py`).
    """

    layout = "whole"
    """How parameters are cut over the ranks, in a word."""
    module: Any
    """The model, a `PreTrainedModel` in training."""
    device: torch.device
    optimizer: Optimizer
    """Updates the holders of `pieces`."""
    lr_scheduler: LambdaLR
    ranks: Ranks
    accumulation: int
    global_steps: int
    """Updates done, skipped ones too."""

    @abstractmethod
    def __call__(self, **inputs: Any) -> Any:
        """Run the model on inputs that may lie on another device."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add this batch's share to the gradients."""

    @abstractmethod
    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether the next `step` updates the weights."""

    @abstractmethod
    def step(self) -> bool:
        """Count a batch; on the last one of an update clip, update, advance the schedule.

        Returns:
            False where the gradients were not finite: then the weights have not been touched.
        """

    @abstractmethod
    def get_global_grad_norm(self) -> float | None:
        """Norm before clipping at the last update; None before the first."""

    def get_lr(self) -> list[float]:
        """Learning rate of the next update, one a parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def loss_scale(self) -> float:
        """Factor of the losses in half precision."""
        return 1.0

    def pieces(self) -> list[Piece]:
        """What this rank's optimizer updates."""
        return whole_pieces(self.module)

    def frozen(self) -> dict[str, Tensor]:
        """Whole parameters that are not trained, and buffers; every rank calls, rank 0 needs the result."""
        held = {name: p.detach() for name, p in self.module.named_parameters() if not p.requires_grad}
        return held | dict(self.module.named_buffers())

    def weights(self) -> dict[str, Tensor] | None:
        """The model's fp32 state dict on rank 0, None elsewhere; every rank calls."""
        if not self.ranks.first:
            return None
        return {name: p.detach() for name, p in self.module.named_parameters()} | dict(
            self.module.named_buffers()
        )

    @abstractmethod
    def _set_counters(self, global_steps: int) -> None:
        """Go on after that many updates."""

    def _after_restore(self) -> None:  # noqa: B027 (nothing follows in one process)
        """Bring whatever follows from the holders up to them."""

    def _set_frozen(self, values: dict[str, Tensor]) -> None:
        self.module.load_state_dict(values, strict=False)

    def _tensors(self, frozen: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What this rank writes: its pieces (rank 0 alone where all hold the same) and random states."""
        alone = self.layout == "whole" and not self.ranks.first
        tensors, facts = collect([] if alone else self.pieces(), self.optimizer)
        if self.ranks.first:
            tensors |= {f"frozen/{name}": x.flatten() for name, x in frozen.items()}
        return tensors | {f"random/{name}": x for name, x in random_states().items()}, facts

    def reserve(self, folder: CheckpointFolder) -> None:
        """Make room for the copies that checkpoints are written from."""
        folder.writer.reserve(self._tensors(self.frozen())[0])

    def save_checkpoint(self, folder: CheckpointFolder, client_state: dict[str, Any]) -> Any:
        """Begin to write everything the next step depends on; call it between updates only.

        Returns:
            The checkpoint's path; it is there after `folder.wait()`.

        Raises:
            InputError: it cannot be written.
        """
        frozen = self.frozen()
        tensors, facts = self._tensors(frozen)
        state = {
            "optimizer": type(self.optimizer).__name__,
            "shapes": dict(shapes_of(self.module)),
            "frozen": {name: list(x.shape) for name, x in frozen.items()},
            "schedule": self.lr_scheduler.state_dict(),
            "global_steps": self.global_steps,
            "scaler": self._scaler_state(),
            "client_state": client_state,
        }
        return folder.save(self.global_steps, tensors, facts, state, layout=self.layout)

    def load_checkpoint(self, folder: CheckpointFolder) -> tuple[Checkpoint | None, dict[str, Any]]:
        """Restore the newest readable checkpoint of a folder, also one of other ranks or another layout.

        Random states come back where the ranks are as many as then; else each rank draws anew from the seed,
        the update and its number.

        Returns:
            The checkpoint and its client state, or (None, {}) where there is none.

        Raises:
            InputError: the checkpoint is of another model or optimizer.
        """
        checkpoint = folder.newest()
        if checkpoint is None:
            return None, {}
        state = checkpoint.run_state()
        found, wanted = state["shapes"], dict(shapes_of(self.module))
        if found != wanted:
            name = min(name for name in found | wanted if found.get(name) != wanted.get(name))
            raise InputError(
                f"{checkpoint.folder}: does not fit this run's model: {name} is {found.get(name)} there, "
                f"{wanted.get(name)} here"
            )
        if state["optimizer"] != type(self.optimizer).__name__:
            raise InputError(
                f"{checkpoint.folder}: written with the optimizer {state['optimizer']}, this run has "
                f"{type(self.optimizer).__name__}"
            )
        reader = ShardReader(checkpoint)
        restore(self.pieces(), self.optimizer, reader)
        frozen = reader.own(0, "frozen")
        self._set_frozen({name: x.reshape(state["frozen"][name]) for name, x in frozen.items()})
        self._after_restore()
        self.lr_scheduler.load_state_dict(state["schedule"])
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self._set_counters(state["global_steps"])
        self._load_scaler(state["scaler"])
        if checkpoint.num_ranks == self.ranks.size:
            set_random_states(reader.own(self.ranks.rank, "random"))
        else:
            torch.manual_seed(seed_of(torch.initial_seed(), state["global_steps"], self.ranks.rank))
        return checkpoint, state["client_state"]

    def _scaler_state(self) -> dict[str, float]:
        return {}

    def _load_scaler(self, state: dict[str, float]) -> None:  # noqa: B027 (there is none in one process)
        """Put back what `_scaler_state` gave."""


class LocalEngine(Engine):
    """One process, one device.

    Args:
        model: returns an output with `.loss`.
        optimizer, schedule: stepped once an update.
        accumulation: backward passes an update; losses are divided by it.
        clip: largest global L2 norm of the gradients, over all parameters.
        precision: "fp32", or "bf16" for autocast.
        device: where the model runs.
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
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.module = model.to(self.device)
        self.optimizer = optimizer
        self.lr_scheduler = schedule
        self.ranks = Ranks()
        self.accumulation = accumulation
        self.clip = clip
        self.autocast = precision == "bf16"
        self.micro_steps = 0
        self.global_steps = 0
        self._grad_norm: float | None = None

    def __call__(self, **inputs: Any) -> Any:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.module(**to_device(inputs, self.device))

    def backward(self, loss: Tensor) -> None:
        (loss / self.accumulation).backward()

    def is_gradient_accumulation_boundary(self) -> bool:
        return (self.micro_steps + 1) % self.accumulation == 0

    def step(self) -> bool:
        applied = True
        if self.is_gradient_accumulation_boundary():
            self._grad_norm = clip_gradients(self.module, self.clip)
            applied = self._grad_norm is not None and math.isfinite(self._grad_norm)
            if applied:
                self.optimizer.step()
                self.lr_scheduler.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.global_steps += 1
        self.micro_steps += 1
        return applied

    def get_global_grad_norm(self) -> float | None:
        return self._grad_norm

    def _set_counters(self, global_steps: int) -> None:
        self.global_steps = global_steps
        self.micro_steps = global_steps * self.accumulation


def clip_gradients(model: nn.Module, clip: float) -> float:
    """Scale the gradients to a global L2 norm of `clip` at most; their norm before."""
    return float(nn.utils.clip_grad_norm_(model.parameters(), clip))


def seed_of(*parts: int) -> int:
    """One seed from several numbers."""
    return int(
        np.random.SeedSequence([part % (1 << 64) for part in parts]).generate_state(1, np.uint64)[0] >> 1
    )


def random_states() -> dict[str, Tensor]:
    """The states that dropout draws from: the CPU's and every GPU's."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: dict[str, Tensor]) -> None:
    """Put back what `random_states` found, as far as this machine has the devices."""
    torch.set_rng_state(states["cpu"])
    gpus = [state for name, state in sorted(states.items()) if name != "cpu"]
    if len(gpus) == torch.cuda.device_count() and gpus:
        torch.cuda.set_rng_state_all(gpus)


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device of a configuration file's name; of several GPUs, the one of this place on the host.

    Raises:
        InputError: an unknown name, or a GPU where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"run.device: {name!r} is no device, wanted auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"run.device: {name!r} asked for, but PyTorch sees no GPU")
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and device.index is not None and device.index >= count:
        raise InputError(f"run.device: {name!r} asked for, but this host has {count} GPUs")
    if device.type == "cuda" and device.index is None and local_rank is not None:
        if local_rank >= count:
            raise InputError(f"LOCAL_RANK is {local_rank}, but this host has {count} GPUs: too many slots")
        device = torch.device("cuda", local_rank)
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
