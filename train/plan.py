"""What a pre-training run needs: memory, network, data, days. Estimates before it is started.

Bytes and FLOPs follow from formulas that tests compare with real runs (`memory.py`, `activations.py`,
`wire.py`, `lxmert_fast/flops.py`). Seconds follow from them and from `Assumptions`, of which none was
measured on a GPU: no machine of this project has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from transformers import LxmertConfig

from lxmert_fast.errors import InputError
from lxmert_fast.flops import TRAINING, BatchSizes, forward_flops
from lxmert_fast.models import LxmertForPreTraining

from .activations import Activations, activation_bytes
from .memory import (
    ELEMENT_BYTES,
    PERSISTENCE_THRESHOLD,
    STATE_BYTES,
    ModelSize,
    Partition,
    RankMemory,
    rank_memory,
)
from .wire import Wire, bytes_sent

#: Of the paper's table 1: pairs of all data sets.
PAPER_PAIRS = 9_180_000
DAY = 24 * 3600


@dataclass(frozen=True)
class Assumptions:
    """What nobody knows before the run. All are options of `lxmert-fast plan`."""

    utilisation: float = 0.33
    """Share of a GPU's peak that products reach over a whole step, the least of what is published for models
    of this kind: 0.52 (DeepSpeed's BERT-large on V100, deepspeed.ai/2020/05/18/bert-record.html), 0.45
    (NVIDIA's on A100, from the samples a second in DeepLearningExamples), 0.33 to 0.39 (torchtitan's Llama 8B
    on H100, its benchmarks). Micro batches of a few pairs reach less."""
    overhead: float = 5e-3
    """Seconds of a forward and backward pass that do not shrink with the batch: launches. About a thousand of
    them are counted (`lxmert-fast bench counts --gpu`), at 5 us each; CUDA graphs would save most."""
    hooks: float = 0.1
    """Seconds more of a forward and backward pass at stage 3, whose hooks visit each of the 520 modules. On a
    core of this project 0.11 to 0.14 s, with the paper's layers 32 wide on one rank; other hosts differ."""
    update_bytes: float = 120.0
    """Bytes of device memory that an update reads and writes a parameter: the 15 operations of BertAdam on
    lists of tensors come to 96, gradients to fp32, norm, clipping and weights from masters to 24. A fused
    optimizer needs about 40."""
    network_share: float = 0.8
    """Share of a node's line rate that collectives reach."""
    intra: float = 100e9
    """Bytes a second that a GPU sends to the next one in its node: NVLink's order; PCIe 4 is 20e9."""
    hop: float = 10e-6
    """Seconds from rank to rank; a collective takes log2 of the ranks as many, there and back."""
    pcie: float = 20e9
    """Bytes a second between a GPU and its host, for offload."""
    host: float = 20e9
    """Bytes a second that a rank has of its host's memory, for an offloaded update."""
    reserve: float = 0.1
    """Share of a GPU's memory kept for CUDA, NCCL, fragments and the work space of operations."""


@dataclass(frozen=True)
class Cluster:
    """What the run is on."""

    nodes: int = 1
    gpus: int = 8
    """In a node."""
    memory: float = 80e9
    """Bytes of a GPU."""
    peak: float = 989e12
    """FLOP a second of a GPU, dense."""
    bandwidth: float = 3.35e12
    """Bytes a second between a GPU and its memory."""
    network: float = 100.0
    """Gbit/s of a node."""

    @property
    def ranks(self) -> int:
        """One a GPU."""
        return self.nodes * self.gpus


class Pair(NamedTuple):
    """A mean pre-training pair.

    Tokens are COCO captions' (`bench/histograms.json`), a seventh of the words between [CLS] and [SEP] masked
    and of the regions, every region labelled as the original does; 0.155 of the pairs have an answer (0.345
    of the texts are questions, 0.9 of them in the table, half of the pairs matched).
    """

    tokens: float = 14.0
    objects: int = 36
    sentences_per_image: float = 1.0
    word_rate: float = 0.15
    region_rate: float = 0.15
    answered: float = 0.155

    def batch(self, pairs: float) -> BatchSizes:
        """Sizes of a batch of them."""
        boxes = pairs * self.objects
        return BatchSizes(
            pairs,
            pairs * self.tokens,
            pairs / self.sentences_per_image,
            self.objects,
            words=pairs * self.word_rate * (self.tokens - 2),
            regions={"obj": boxes, "attr": boxes, "feat": boxes * self.region_rate},
            answered=pairs * self.answered,
        )

    def bytes_read(self, config: LxmertConfig) -> float:
        """Of region files: features in fp16, boxes in fp32, two labels and two confidences of 4 bytes."""
        region = 2 * config.visual_feat_dim + 4 * config.visual_pos_dim + 16
        return self.objects * region / self.sentences_per_image


#: Bytes of a GPU's memory, and a second to it, by the names of `--gpu`; from NVIDIA's data sheets. Peaks are
#: `lxmert_fast.flops.device_peak`'s.
GPUS = {
    "B200": (180e9, 8e12),
    "H200": (141e9, 4.8e12),
    "H100": (80e9, 3.35e12),
    "A100-80": (80e9, 2.0e12),
    "A100-40": (40e9, 1.555e12),
    "L40S": (48e9, 0.864e12),
    "A10": (24e9, 0.6e12),
    "L4": (24e9, 0.3e12),
    "V100-32": (32e9, 0.9e12),
    "V100-16": (16e9, 0.9e12),
    "T4": (16e9, 0.32e12),
}


@dataclass(frozen=True)
class Run:
    """What is to be run."""

    config: LxmertConfig
    batch: int = 256
    """Pairs of an update, over all ranks."""
    precision: str = "bf16"
    optimizer: str = "bertadam"
    stage: int | None = None
    """ZeRO; None takes the fastest that fits."""
    micro: int | None = None
    """Pairs of a forward pass on a rank; None takes as many as fit."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    checkpointing: bool = False
    bucket: int = 500_000_000
    epochs: int = 20
    pairs: int = PAPER_PAIRS
    """Of an epoch."""
    pair: Pair = field(default_factory=Pair)

    @property
    def stages(self) -> list[int]:
        """Those that come into question."""
        if self.stage is not None:
            return [self.stage]
        return [1, 2, 3] if self.offload_optimizer else [0, 1, 2, 3]


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
    if run.offload_optimizer and run.stage == 0:
        raise InputError("offload of the optimizer at ZeRO stage 0, wanted stage 1, 2 or 3")


def _powers(share: int) -> list[int]:
    """Micro batches that are tried: the rank's whole share and the powers of two below it."""
    return [share, *(2**k for k in reversed(range(int(math.log2(share)) + 1)) if 2**k < share)]


def _at(
    run: Run, cluster: Cluster, assumed: Assumptions, size: ModelSize, stage: int, micro: int
) -> Estimate:
    share = run.batch // cluster.ranks
    micro = min(micro, share)
    accumulation = -(-share // micro)
    how = Partition(
        stage,
        cluster.ranks,
        ELEMENT_BYTES[run.precision],
        STATE_BYTES[run.optimizer],
        run.bucket,
        offload_optimizer=run.offload_optimizer,
        offload_parameters=run.offload_parameters,
    )
    memory = rank_memory(size, how)
    kept = activation_bytes(
        run.config,
        run.pair.batch(micro),
        how.element,
        checkpointing=run.checkpointing,
        apart=stage == 3,
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
