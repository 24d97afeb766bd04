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

    Args:
        model: the engine's module.
        optimizer: the engine's ZeRO optimizer.
        rank: among the ranks that share the parameters.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return list(_of_stage_3(names, optimizer, rank))
    return list(_of_stages_1_and_2(names, optimizer))


def _of_stage_3(names: dict[nn.Parameter, str], optimizer: Any, rank: int) -> Iterator[Piece]:
    for holder, group in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
        offset = 0
        for parameter in group:
            share = parameter.partition_numel()
            start = min(rank * share, parameter.ds_numel)
            size = min(share, parameter.ds_numel - start)  # the last share is padded
            if size:
                yield Piece(names[parameter], start, holder, offset, size)
            offset += share


def _of_stages_1_and_2(names: dict[nn.Parameter, str], optimizer: Any) -> Iterator[Piece]:
    for holder, group in zip(
        optimizer.single_partition_of_fp32_groups, optimizer.round_robin_bit16_groups, strict=True
    ):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is not None:
                of_parameter, of_holder = mapping.lp_fragment_address, mapping.hp_fragment_address
                yield Piece(names[parameter], of_parameter.start, holder, of_holder.start, of_parameter.numel)


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
            held = state.get(key)
            # torch's optimizers count their steps in a tensor, others in an int
            state[key] = (
                _as_the_optimizer_counts(optimizer, number) if held is None else type_of(held)(number)
            )


def type_of(held: Any) -> Any:
    """What makes a number the kind of number that `held` is."""
    return torch.tensor if isinstance(held, Tensor) else type(held)


def _as_the_optimizer_counts(optimizer: Optimizer, number: float) -> Any:
    return torch.tensor(number) if type(optimizer).__module__.startswith("torch.optim") else int(number)


def shapes_of(model: nn.Module) -> Mapping[str, list[int]]:
    """Name to shape of every trained parameter, also where ZeRO has taken it apart."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
