"""Which stretch of a flat partition is which parameter's.

ZeRO hands the optimizer one flat fp32 tensor, this rank's share of many parameters, padding included. Whoever
needs a number of a whole parameter, such as its norm, sums over its stretches on all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lxmert_fast.errors import InputError

from .lamb import Lamb


@dataclass(frozen=True)
class Segments:
    """The stretches of one flat tensor. Padding belongs to none.

    Attributes:
        spans: (start, length) in the flat tensor, P of them.
        owners: (P,) int64, the parameter of each.
        parameters: how many there are on all ranks together.
        ranks: who holds the rest of them.
        device: where these ranks exchange.
    """

    spans: tuple[tuple[int, int], ...]
    owners: Tensor
    parameters: int
    ranks: Any
    device: torch.device

    def cut(self, flat: Tensor) -> list[Tensor]:
        """Views of a tensor that is laid out like the flat one."""
        return [flat.narrow(0, start, length) for start, length in self.spans]

    def whole(self, norms: Tensor) -> Tensor:
        """Norms of the stretches (..., P) to those of the whole parameters that they are of (..., P).

        Every rank calls it, also one whose share is all padding.
        """
        owners = self.owners.to(self.device)
        squares = norms.to(self.device, torch.float64).square()
        sums = squares.new_zeros(*norms.shape[:-1], self.parameters).index_add_(-1, owners, squares)
        dist.all_reduce(sums, group=self.ranks)
        return sums.sqrt().index_select(-1, owners).to(norms.device, norms.dtype)


def share_norms(optimizer: Optimizer, engine: Any) -> None:
    """Let LAMB's trust ratios be those of whole parameters. After `deepspeed.initialize`; no other call.

    Without it each flat partition would have one ratio. Other optimizers, which go element by element, are
    left as they are.

    Args:
        optimizer: what was given to `deepspeed.initialize`.
        engine: what came back, of any ZeRO stage, with or without offload.

    Raises:
        InputError: DeepSpeed wraps the optimizer in a way that is not known here.
    """
    if isinstance(optimizer, Lamb) and engine.optimizer is not optimizer:
        optimizer.segments = dict(_partitions(engine.optimizer, torch.device(engine.device)))


def _partitions(wrapper: Any, device: torch.device) -> Iterator[tuple[Tensor, Segments]]:
    """Each flat tensor that the optimizer steps, and what is in it.

    The names are DeepSpeed 0.19's own. `_hp_mapping` would do for stages 1 and 2, but is in another order
    than the buffer with `round_robin_gradients`.
    """
    kind = type(wrapper).__name__
    if kind == "DeepSpeedZeroOptimizer":
        for flat, params, starts, ranks in zip(
            wrapper.single_partition_of_fp32_groups,
            wrapper.round_robin_bit16_groups,
            wrapper.round_robin_bit16_offsets,
            wrapper.real_dp_process_group,
            strict=True,
        ):
            sizes = [p.numel() for p in params]
            yield flat, _share_of_buffer(flat, list(zip(starts, sizes, strict=True)), ranks, device)
    elif kind == "BF16_Optimizer":
        for flat, params, ranks in zip(
            wrapper.fp32_groups_flat_partition,
            wrapper.bf16_groups,
            wrapper.real_dp_process_group,
            strict=True,
        ):
            sizes = [p.numel() for p in params]
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            yield flat, _share_of_buffer(flat, list(zip(starts, sizes, strict=True)), ranks, device)
    elif kind == "DeepSpeedZeroOptimizer_Stage3":
        for flat, params, ranks in zip(
            wrapper.fp32_partitioned_groups_flat,
            wrapper.fp16_groups,
            wrapper.sub_group_process_groups,
            strict=True,
        ):
            shares = [(p.partition_numel(), p.ds_numel) for p in params]
            yield flat, _shares_side_by_side(shares, ranks, device)
    elif kind != "FP16_UnfusedOptimizer":  # which keeps whole parameters
        raise InputError(
            f"LAMB under DeepSpeed's {kind}: wanted a ZeRO optimizer of stage 0 to 3 of deepspeed 0.19"
        )


def _share_of_buffer(
    flat: Tensor, parameters: list[tuple[int, int]], ranks: Any, device: torch.device
) -> Segments:
    """Stages 1 and 2: all parameters (start, size) in one buffer, cut into equal shares."""
    low = dist.get_rank(ranks) * flat.numel()
    high = low + flat.numel()
    found = [
        (owner, max(start, low) - low, min(start + size, high) - max(start, low))
        for owner, (start, size) in enumerate(parameters)
    ]
    return _segments(found, len(parameters), ranks, device)


def _shares_side_by_side(shares: list[tuple[int, int]], ranks: Any, device: torch.device) -> Segments:
    """Stage 3: each parameter (share, size) cut into equal shares, this rank's one after the other."""
    rank, start, found = dist.get_rank(ranks), 0, []
    for owner, (share, size) in enumerate(shares):
        found.append((owner, start, min(share, size - rank * share)))
        start += share
    return _segments(found, len(shares), ranks, device)


def _segments(
    found: list[tuple[int, int, int]], parameters: int, ranks: Any, device: torch.device
) -> Segments:
    """Of (owner, start, length), those that have any length."""
    there = [(owner, (start, length)) for owner, start, length in found if length > 0]
    owners = torch.tensor([owner for owner, _ in there], dtype=torch.int64)
    return Segments(tuple(span for _, span in there), owners.to(device), parameters, ranks, device)
