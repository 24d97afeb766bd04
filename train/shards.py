"""A checkpoint's tensors as pieces of named parameters, whoever holds them.

A rank holds, of each parameter p, a range p.flatten()[start : start + n] in fp32, and the optimizer's numbers
for the same range. Without sharding the range is everything; ZeRO cuts it in ways that depend on the stage
and the number of ranks. Since the ranges are written down, any other cut can be put together from them: this
is how a run goes on with other ranks, another stage, or with none.

DeepSpeed's Universal Checkpoint does the same by way of a converted copy, but not for stage 0, not for an
optimizer without a `step`, and its stage-3 loader gives every parameter group the settings of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lxmert_fast.errors import InputError

WEIGHT = "weight"
"""The key of the fp32 parameter itself; the others are the optimizer's, such as "exp_avg"."""


@dataclass(frozen=True)
class Piece:
    """A range of a parameter on this rank."""

    name: str
    """Of the parameter in the model's state dict."""
    start: int
    """First element of the range in the flattened parameter."""
    holder: Tensor
    """What the optimizer updates: the parameter, or a flat partition of many."""
    offset: int
    """Where the range begins in the flattened holder."""
    size: int

    def of(self, values: Tensor) -> Tensor:
        """The (size,) view of a tensor that is laid out as the holder is."""
        return values.detach().view(-1)[self.offset : self.offset + self.size]


def whole_pieces(model: nn.Module) -> list[Piece]:
    """One piece a trained parameter, all of it."""
    return [
        Piece(name, 0, parameter, 0, parameter.numel())
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]


def sharded_pieces(model: nn.Module, optimizer: Any, rank: int) -> list[Piece]:
    """What this rank holds under DeepSpeed's ZeRO, in the order in which its optimizer holds it.

    The names of the attributes are those of DeepSpeed 0.19. `_hp_mapping` would do for stages 1 and 2, but is
    in another order than the buffer with `round_robin_gradients`.

    Args:
        model: the engine's module.
        optimizer: the engine's ZeRO optimizer.
        rank: among the ranks that share the parameters.

    Raises:
        InputError: DeepSpeed's optimizer is none of those that are known here.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    kind = type(optimizer).__name__
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        return list(_of_stage_3(names, optimizer, rank))
    if kind == "DeepSpeedZeroOptimizer":
        groups = optimizer.round_robin_bit16_groups
        return list(_of_buffers(names, holders(optimizer), groups, optimizer.round_robin_bit16_offsets, rank))
    if kind == "BF16_Optimizer":
        groups = optimizer.bf16_groups
        sizes = [[parameter.numel() for parameter in group] for group in groups]
        offsets = [[sum(found[:i]) for i in range(len(found))] for found in sizes]
        return list(_of_buffers(names, holders(optimizer), groups, offsets, rank))
    raise InputError(f"DeepSpeed's {kind}: wanted a ZeRO optimizer of stage 1 to 3 of deepspeed 0.19")


def holders(optimizer: Any) -> list[Tensor]:
    """The flat fp32 partitions of this rank that DeepSpeed's base optimizer updates, padding included."""
    for name in (
        "fp32_partitioned_groups_flat",
        "single_partition_of_fp32_groups",
        "fp32_groups_flat_partition",
    ):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise InputError(
        f"DeepSpeed's {type(optimizer).__name__}: wanted a ZeRO optimizer of stage 1 to 3 of deepspeed 0.19"
    )


def _of_stage_3(names: dict[nn.Parameter, str], optimizer: Any, rank: int) -> Iterator[Piece]:
    """Each parameter cut into equal shares, the last padded; a rank's shares side by side."""
    for holder, group in zip(holders(optimizer), optimizer.fp16_groups, strict=True):
        offset = 0
        for parameter in group:
            share = parameter.partition_numel()
            start = min(rank * share, parameter.ds_numel)
            size = min(share, parameter.ds_numel - start)
            if size:
                yield Piece(names[parameter], start, holder, offset, size)
            offset += share


def _of_buffers(
    names: dict[nn.Parameter, str],
    partitions: list[Tensor],
    groups: list[list[nn.Parameter]],
    offsets: list[list[int]],
    rank: int,
) -> Iterator[Piece]:
    """Stages 1 and 2: the parameters of a group in one buffer, which is cut into equal partitions."""
    for holder, group, starts in zip(partitions, groups, offsets, strict=True):
        low = rank * holder.numel()
        high = low + holder.numel()
        for parameter, at in zip(group, starts, strict=True):
            first, last = max(at, low), min(at + parameter.numel(), high)
            if first < last:
                yield Piece(names[parameter], first - at, holder, first - low, last - first)


def collect(pieces: list[Piece], optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of this rank's shard, and what else a reader must know.

    Args:
        optimizer: the one that updates the holders.

    Returns:
        "key/name" to (n,) views, and {"starts": name to first element, "numbers": name to the optimizer's
        plain numbers, such as a step count}.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, float]] = {}
    for piece in pieces:
        tensors[f"{WEIGHT}/{piece.name}"] = piece.of(piece.holder)
        for key, value in optimizer.state.get(piece.holder, {}).items():
            if isinstance(value, Tensor) and value.numel() == piece.holder.numel() and value.dim():
                tensors[f"{key}/{piece.name}"] = piece.of(value)
            else:
                numbers.setdefault(piece.name, {})[key] = float(value)
    return tensors, {"starts": {piece.name: piece.start for piece in pieces}, "numbers": numbers}


@torch.no_grad()
def restore(pieces: list[Piece], optimizer: Optimizer, read: Any) -> None:
    """Fill this rank's holders, and the optimizer's numbers for them, from a checkpoint.

    Args:
        read: `shard_reader.ShardReader`.

    Raises:
        InputError: the checkpoint lacks a parameter, or holds it in another size.
    """
    for piece in pieces:
        piece.of(piece.holder).copy_(read.range(WEIGHT, piece.name, piece.start, piece.size))
        state = optimizer.state[piece.holder]
        for key in read.keys_of(piece.name):
            if key not in state:
                state[key] = torch.zeros_like(piece.holder, requires_grad=False)
            piece.of(state[key]).copy_(read.range(key, piece.name, piece.start, piece.size))
        for key, number in read.numbers_of(piece.name).items():
            state[key] = _as_the_optimizer_counts(optimizer, number)


def _as_the_optimizer_counts(optimizer: Optimizer, number: float) -> Any:
    # torch's optimizers count their steps in a tensor, others in an int
    return torch.tensor(number) if type(optimizer).__module__.startswith("torch.optim") else int(number)


def shapes_of(model: nn.Module) -> Mapping[str, list[int]]:
    """Name to shape of every trained parameter, also where ZeRO has taken it apart."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
