"""Bytes that one rank sends in an update, by ZeRO stage: what DeepSpeed 0.19 really calls.

    stage   of gradients                                          of weights
    0       all-reduce, once an update                            none
    1       all-reduce, once an update                            all-gather, once an update
    2       all-reduce, once a *forward pass*                     all-gather, once an update
    3       reduce-scatter, once a forward pass                   all-gather, once or twice a forward pass

Stages 1 and 2 all-reduce where a reduce-scatter would do: `use_multi_rank_bucket_allreduce` is on by default,
and sums whole buckets on every rank before each keeps its share. Stage 3 gathers a second time only what it
let go (`memory.py`); each use of the tied word embedding is one of its own then.

A collective of S bytes over W ranks in a ring, sent by every rank:

    all-reduce 2 S (W - 1) / W      reduce-scatter S (W - 1) / W      all-gather S (W - 1) / W

gloo, PyTorch's backend of CPUs, has no reduce-scatter of its own: there it is an all-reduce. One ring runs
through all ranks, node by node, so what a *node* sends is what one rank sends, however many GPUs it has.
`tests/train/test_zero_ranks.py` reads the counters of two hosts' interfaces and compares.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .memory import ALL_REDUCE_BUCKET, Partition

Backend = Literal["nccl", "gloo"]


class Wire(NamedTuple):
    """Of one update."""

    gradients: float
    """Bytes that a rank sends."""
    weights: float
    calls: float
    """Collectives that wait for each other."""

    @property
    def sent(self) -> float:
        """Bytes that a rank sends."""
        return self.gradients + self.weights


def bytes_sent(
    parameters: int,
    how: Partition,
    *,
    accumulation: int = 1,
    backend: Backend = "nccl",
    tied: int = 0,
    layers: int = 24,
) -> Wire:
    """What a rank sends in an update of `accumulation` forward passes.

    Args:
        parameters: P.
        tied: parameters that two modules use, gathered for each.
        layers: layers of the model, each of which stage 3 gathers on its own.
    """
    ring = (how.ranks - 1) / how.ranks
    size = parameters * how.element * ring
    buckets = -(-parameters // (how.bucket if how.stage else ALL_REDUCE_BUCKET))
    if how.ranks == 1:
        return Wire(0, 0, 0)
    if how.stage == 0:
        return Wire(2 * size, 0, buckets)
    if how.stage == 1:
        return Wire(2 * size, size, buckets + 1)
    if how.stage == 2:
        return Wire(2 * size * accumulation, size, buckets * accumulation + 1)
    again = how.gathered_again(parameters)
    gathers = 1 + again * (1 + 2 * tied / parameters)
    reduces = 2 if backend == "gloo" else 1
    calls = accumulation * (layers * (2 if again else 1) + buckets)
    return Wire(reduces * size * accumulation, gathers * size * accumulation, calls)
