"""What one rank keeps in memory, by ZeRO stage: the formulas of DeepSpeed 0.19.

With P parameters, W ranks and e bytes a weight: 4 in fp32, 2 in bf16 and fp16; but 4 in our bf16 at stage 0,
which is autocast over fp32 weights, whose copies, 2 P, are kept from forward to backward:

    stage   weights   fp32 masters     optimizer   gradients        DeepSpeed's buckets
    0       e P       4 P if e = 2     s P         e P              e min(P, 5e8)
    1       e P       4 P / W          s P / W     e P + e P / W    e (bucket + min(P, bucket))
    2       e P       4 P / W          s P / W     e P / W          e (bucket + min(P, bucket))
    3       e P / W   4 P / W          s P / W     e P / W          2 e bucket

s is 8 for AdamW, BertAdam and LAMB, which keep two fp32 moments. From stage 1 on DeepSpeed makes a master
copy even of fp32 weights. Stage 1 keeps whole gradients until the update and then its own share of the means;
of a parameter that two shares cut, the whole gradient stays (the word embedding's at most: not counted). The
buckets of stages 1 and 2 are allocated whole, however few parameters there are, and what is reduced is copied
once more. Stage 3 keeps small parameters on every rank, and gathers the others for as long as they are used
again within `max_reuse_distance` elements: with DeepSpeed's default of 1e9 that is until backward for every
model of fewer than half as many parameters, so the weights are then whole on every rank while a batch is
computed.

`tests/train/test_zero_ranks.py` counts tensors in engines on two ranks and compares.
"""

from __future__ import annotations

from typing import NamedTuple

FP32 = 4
#: Elements: what `deepspeed_config` sets. DeepSpeed's own 5e8 would take more than this model's weights.
BUCKET = 50_000_000
#: Elements; DeepSpeed's constant of stage 0, which no option changes.
ALL_REDUCE_BUCKET = 500_000_000
#: Elements; DeepSpeed's defaults.
MAX_REUSE_DISTANCE = 1_000_000_000
PERSISTENCE_THRESHOLD = 100_000
#: Two fp32 moments.
STATE_BYTES = {"adamw": 8, "bertadam": 8, "lamb": 8}
#: Of what is computed; weights are `weight_bytes`.
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


class ModelSize(NamedTuple):
    """Parameters of a model."""

    parameters: int
    """P, a tied matrix once."""
    persistent: int = 0
    """Of those, how many are in tensors of at most `PERSISTENCE_THRESHOLD` elements."""


class Partition(NamedTuple):
    """How a model is spread over ranks."""

    stage: int
    ranks: int
    element: int
    """Bytes a weight, and its gradient: `weight_bytes`."""
    state_bytes: int = 8
    """The optimizer's, a parameter."""
    bucket: int = BUCKET
    """Elements."""
    max_reuse_distance: int = MAX_REUSE_DISTANCE
    """Elements: DeepSpeed's setting of that name, or its prefetch bucket if that is more."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    autocast: bool = False
    """Products are computed in bf16 on copies of fp32 weights."""

    @property
    def shared(self) -> int:
        """Ranks that masters and optimizer states are spread over."""
        return self.ranks if self.stage else 1

    def gathered_again(self, parameters: int) -> float:
        """Share of the weights that stage 3 lets go after forward and gathers again for backward.

        A weight with x elements before it in the order of use is used again after 2 (P - x) more.
        """
        return max(0.0, 1 - self.max_reuse_distance / (2 * parameters))


class RankMemory(NamedTuple):
    """Bytes on the device of one rank, and beside it."""

    weights: float
    masters: float
    states: float
    gradients: float
    buckets: float
    gathered: float
    """While a batch is computed: whole weights of stage 3, autocast's copies."""
    update: float
    """While the optimizer steps: a flat copy of the gradients in fp32, but for stage 0 in fp32, and two
    intermediates of an optimizer on lists of tensors (a fused one has none)."""
    host: float
    """In the host's memory."""

    @property
    def resting(self) -> float:
        """Between updates."""
        return self.weights + self.masters + self.states

    def peak(self, activations: float) -> float:
        """The larger of the end of forward and the update, both with gradients and buckets there."""
        held = self.resting + self.gradients + self.buckets
        return held + max(activations + self.gathered, self.update)


def weight_bytes(precision: str, stage: int) -> int:
    """Bytes of a weight and of its gradient."""
    return ELEMENT_BYTES[precision] if stage else FP32


def rank_memory(model: ModelSize, how: Partition) -> RankMemory:
    """Bytes of one rank; the module's docstring has the formulas.

    Offload moves masters and states, and then the update, to the host; of stage 3 also the weights.
    """
    p, e, share = model.parameters, how.element, model.parameters / how.shared
    masters = FP32 * share if how.stage or e < FP32 else 0
    states = how.state_bytes * share
    update = FP32 * share * (3 if how.stage or e < FP32 else 2)
    weights, gathered = float(e * p), float(ELEMENT_BYTES["bf16"] * p * how.autocast)
    if how.stage == 3:
        weights = e * (share + model.persistent)
        gathered = e * (p - model.persistent) * (1 - how.gathered_again(p))
    gradients = e * {0: p, 1: p + share, 2: share, 3: share}[how.stage]
    if how.stage == 0:
        buckets = e * min(p, ALL_REDUCE_BUCKET)
    elif how.stage == 3:
        buckets = 2 * e * how.bucket
    else:
        buckets = e * (how.bucket + min(p, how.bucket))
    host = 0.0
    if how.offload_optimizer:
        host, masters, states, update = masters + states + e * share, 0, 0, 0
    if how.offload_parameters:
        host, weights = host + e * share, e * model.persistent
    return RankMemory(weights, masters, states, gradients, buckets, gathered, update, host)
