"""What a pre-training run needs: memory, network, data, days. Estimates before it is started.

Bytes and FLOPs follow from formulas that tests compare with real runs (`memory.py`, `activations.py`,
`wire.py`, `lxmert_fast/flops.py`). Seconds follow from them and from `Assumptions`, of which none was
measured on a GPU: no machine of this project has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from transformers import LxmertConfig

from lxmert_fast.errors import InputError
from lxmert_fast.flops import TRAINING, forward_flops
from lxmert_fast.models import LxmertForPreTraining

from .activations import Activations, activation_bytes
from .launched import cut
from .memory import (
    ELEMENT_BYTES,
    PERSISTENCE_THRESHOLD,
    STATE_BYTES,
    ModelSize,
    Partition,
    RankMemory,
    rank_memory,
    weight_bytes,
)
from .plan_inputs import Assumptions, Cluster, Run
from .settings import OptimisationSettings
from .wire import Wire, bytes_sent

DAY = 24 * 3600


@dataclass(frozen=True)
class Estimate:
    """A run on a cluster.

    Attributes:
        stage, micro, accumulation: of ZeRO; pairs a forward pass; forward passes an update.
        memory, activations: bytes of a rank, of a forward pass.
        peak, room: bytes that a rank needs at most, and that it has.
        flops: of an update on a rank, model FLOPs.
        wire: of an update on a rank.
        compute, update, communication: seconds of an update: passes, the optimizer, the network.
    """

    run: Run
    cluster: Cluster
    stage: int
    micro: int
    accumulation: int
    memory: RankMemory
    activations: Activations
    peak: float
    room: float
    flops: float
    wire: Wire
    compute: float
    update: float
    communication: float

    @property
    def fits(self) -> bool:
        """Whether a rank has the memory."""
        return self.peak <= self.room

    @property
    def seconds(self) -> tuple[float, float]:
        """Of an update: communication wholly behind computing, and wholly after it."""
        best, worst = max(self.compute, self.communication), self.compute + self.communication
        return best + self.update, worst + self.update

    @property
    def days(self) -> tuple[float, float]:
        """Of the whole run, likewise."""
        updates = self.run.epochs * (self.run.pairs // self.run.batch)
        best, worst = (updates * seconds / DAY for seconds in self.seconds)
        return best, worst

    @property
    def pairs_per_second(self) -> tuple[float, float]:
        """Over all ranks, likewise: what the data path has to deliver."""
        best, worst = (self.run.batch / seconds for seconds in self.seconds)
        return best, worst

    @property
    def bytes_per_second(self) -> float:
        """Read from region files over all ranks, at the higher rate."""
        return self.pairs_per_second[0] * self.run.pair.bytes_read(self.run.config)


def model_size(config: LxmertConfig) -> ModelSize:
    """Parameters, counted on a model that is built without its numbers."""
    with torch.device("meta"):
        model = LxmertForPreTraining(config)
    model.tie_weights()
    sizes = [p.numel() for p in model.parameters()]
    return ModelSize(sum(sizes), sum(size for size in sizes if size <= PERSISTENCE_THRESHOLD))


def estimate(run: Run, cluster: Cluster, assumed: Assumptions, size: ModelSize | None = None) -> Estimate:
    """The run at its stage and micro batch, or at the fastest that fit; where none fits, at the smallest.

    Of stages that are as fast the lowest is taken.

    Args:
        size: the model's, for whoever estimates many runs of one.

    Raises:
        InputError: a batch that is no multiple of the ranks, an unknown precision or optimizer.
    """
    _check(run, cluster)
    size = size or model_size(run.config)
    share = run.batch // cluster.ranks
    micros = [run.micro] if run.micro is not None else _powers(share)
    found = [_at(run, cluster, assumed, size, stage, micro) for stage in run.stages for micro in micros]
    fitting = [one for one in found if one.fits]
    if not fitting:
        return min(found, key=lambda one: one.peak)
    return min(fitting, key=lambda one: (sum(one.seconds), one.stage))


def most_pairs(run: Run, cluster: Cluster, assumed: Assumptions, size: ModelSize) -> int:
    """The largest power of two that fits as a micro batch at the run's stage; 0 if none does.

    Whatever the run's batch is.
    """
    most = 0
    while most < 2**20:
        micro = 2 * most or 1
        tried = replace(run, batch=micro * cluster.ranks, micro=micro)
        if not estimate(tried, cluster, assumed, size).fits:
            break
        most = micro
    return most


def _check(run: Run, cluster: Cluster) -> None:
    if run.batch % cluster.ranks:
        raise InputError(
            f"batch {run.batch}, wanted a multiple of the {cluster.ranks} ranks ({cluster.nodes} nodes x "
            f"{cluster.gpus} GPUs)"
        )
    if run.precision not in ELEMENT_BYTES:
        raise InputError(f"precision {run.precision!r}, wanted one of {', '.join(ELEMENT_BYTES)}")
    if run.optimizer not in STATE_BYTES:
        raise InputError(f"optimizer {run.optimizer!r}, wanted one of {', '.join(STATE_BYTES)}")
    if run.stage not in (None, 0, 1, 2, 3):
        raise InputError(f"ZeRO stage {run.stage}, wanted 0, 1, 2 or 3")
    if run.offload_parameters and run.stage != 3:
        raise InputError("offload of parameters, wanted together with ZeRO stage 3")
    if run.precision == "fp16" and run.stage == 0:
        raise InputError(
            "precision 'fp16' at ZeRO stage 0, wanted stage 1, 2 or 3; bf16 works at every stage"
        )
    if run.offload_optimizer and run.stage == 0:
        raise InputError("offload of the optimizer at ZeRO stage 0, wanted stage 1, 2 or 3")


def _powers(share: int) -> list[int]:
    """Micro batches that are tried: the rank's whole share and the powers of two below it."""
    return [share, *(2**k for k in reversed(range(int(math.log2(share)) + 1)) if 2**k < share)]


def _at(
    run: Run, cluster: Cluster, assumed: Assumptions, size: ModelSize, stage: int, micro: int
) -> Estimate:
    share = run.batch // cluster.ranks
    asked = OptimisationSettings(batch_size=run.batch, micro_batch_size=micro)
    accumulation, micro = cut(asked, cluster.ranks)
    autocast = run.precision == "bf16" and stage == 0
    how = Partition(
        stage,
        cluster.ranks,
        weight_bytes(run.precision, stage),
        STATE_BYTES[run.optimizer],
        run.bucket,
        offload_optimizer=run.offload_optimizer,
        offload_parameters=run.offload_parameters,
        autocast=autocast,
    )
    memory = rank_memory(size, how)
    kept = activation_bytes(
        run.config,
        run.pair.batch(micro),
        ELEMENT_BYTES[run.precision],
        checkpointing=run.checkpointing,
        # autocast too keeps what GELU gives
        apart=autocast or stage == 3,
    )
    forward = forward_flops(run.config, *run.pair.batch(share))
    passes = TRAINING + (1 if run.checkpointing else 0)
    overhead = assumed.overhead + (assumed.hooks if stage == 3 else 0.0)
    speed = assumed.host if run.offload_optimizer else cluster.bandwidth
    wire = bytes_sent(size.parameters, how, accumulation=accumulation, layers=_layers(run.config))
    return Estimate(
        run,
        cluster,
        stage,
        micro,
        accumulation,
        memory,
        kept,
        memory.peak(sum(kept)),
        cluster.memory * (1 - assumed.reserve),
        TRAINING * forward,
        wire,
        passes * forward / (cluster.peak * assumed.utilisation) + accumulation * overhead,
        assumed.update_bytes * size.parameters / how.shared / speed,
        _communication(wire, cluster, assumed) + _offload(size, how, assumed),
    )


def _communication(wire: Wire, cluster: Cluster, assumed: Assumptions) -> float:
    """The slower of a ring's two kinds of links, and the hops of its collectives."""
    seconds = wire.sent / assumed.intra if cluster.gpus > 1 else 0.0
    if cluster.nodes > 1:
        seconds = max(seconds, wire.sent / (cluster.network * 1e9 / 8 * assumed.network_share))
    return seconds + wire.calls * 2 * math.log2(cluster.ranks) * assumed.hop


def _offload(size: ModelSize, how: Partition, assumed: Assumptions) -> float:
    """Gradients down and weights up, a rank's share of each."""
    if not how.offload_optimizer:
        return 0.0
    return 2 * how.element * size.parameters / how.shared / assumed.pcie


def _layers(config: LxmertConfig) -> int:
    return config.l_layers + config.r_layers + config.x_layers
