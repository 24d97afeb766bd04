"""What a plan is made from: a run, a cluster, and what is assumed of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from transformers import LxmertConfig

from lxmert_fast.flops import BatchSizes
from lxmert_fast.pretraining_tasks import OBJECT_TASKS, TASKS

from .memory import BUCKET

#: Of the paper's table 1: pairs of all data sets.
PAPER_PAIRS = 9_180_000


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


#: Of the assumptions, those that something is divided by.
DIVISORS = ("utilisation", "network_share", "intra", "pcie", "host")


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

    Tokens are COCO captions' (`bench/histograms.json`), 15 % of the words between [CLS] and [SEP] masked and
    of the regions, every region labelled as the original does; 0.155 of the pairs have an answer (0.345
    of the texts are questions, 0.9 of them in the table, half of the pairs matched).
    """

    tokens: float = 14.0
    objects: int = 36
    sentences_per_image: float = 1.0
    word_rate: float = 0.15
    region_rate: float = 0.15
    answered: float = 0.155
    tasks: tuple[str, ...] = TASKS

    def batch(self, pairs: float) -> BatchSizes:
        """Sizes of a batch of them."""
        boxes = pairs * self.objects
        scored = {name: boxes * (self.region_rate if name == "feat" else 1) for name in OBJECT_TASKS}
        return BatchSizes(
            pairs,
            pairs * self.tokens,
            pairs / self.sentences_per_image,
            self.objects,
            words=pairs * self.word_rate * (self.tokens - 2) if "mask_lm" in self.tasks else 0,
            regions={name: rows for name, rows in scored.items() if name in self.tasks},
            answered=pairs * self.answered if "qa" in self.tasks else 0,
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
    bucket: int = BUCKET
    """Elements."""
    epochs: int = 20
    pairs: int = PAPER_PAIRS
    """Of an epoch."""
    pair: Pair = field(default_factory=Pair)

    @property
    def stages(self) -> list[int]:
        """Those that come into question."""
        if self.stage is not None:
            return [self.stage]
        return [1, 2, 3] if self.offload_optimizer or self.precision == "fp16" else [0, 1, 2, 3]
