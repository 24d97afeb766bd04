"""Which stretch of a flat partition is which parameter's.

ZeRO hands the optimizer one flat fp32 tensor, this rank's share of many parameters, padding included. Whoever
needs a number of a whole parameter, such as its norm, sums over its stretches on all ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from .lamb import Lamb
from .shards import Piece, holders, sharded_pieces


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
    zero = engine.optimizer
    if not isinstance(optimizer, Lamb) or zero is optimizer:
        return
    if type(zero).__name__ == "FP16_UnfusedOptimizer":  # which keeps whole parameters
        return
    ranks = zero.dp_process_group
    numbers = {name: number for number, (name, _) in enumerate(engine.module.named_parameters())}
    pieces = sharded_pieces(engine.module, zero, dist.get_rank(ranks))
    device = torch.device(engine.device)
    optimizer.segments = {
        holder: _segments([p for p in pieces if p.holder is holder], numbers, ranks, device)
        for holder in holders(zero)
    }


def _segments(pieces: list[Piece], numbers: dict[str, int], ranks: Any, device: torch.device) -> Segments:
    owners = torch.tensor([numbers[piece.name] for piece in pieces], dtype=torch.int64)
    spans = tuple((piece.offset, piece.size) for piece in pieces)
    return Segments(spans, owners.to(device), len(numbers), ranks, device)
