"""The tables of train/README.md: memory, micro batches, large-batch recipes, efficiency by network.

    python -m lxmert_fast.train.plan_page [train/README.md]    prints them, or puts them between their marks

All of it is the model of `plan.py` for the paper's sizes. Nothing is run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformers import LxmertConfig

from lxmert_fast.pages import print_or_put, table

from .curves import points, points_table
from .memory import Partition, rank_memory, weight_bytes
from .plan import model_size, most_pairs
from .plan_inputs import PAPER_PAIRS, Assumptions, Cluster, Run

RANKS = 8
GPU_GIGABYTES = 16, 24, 40, 80
#: Pairs, learning rate and share of warm-up at the top of the LAMB paper's table of untuned runs of BERT; the
#: rate falls with the root of the batch, the share with the batch.
LARGEST, LAMB_RATE, LAMB_WARMUP = 32_768, 5e-3, 1 / 5
#: The original's recipe.
OUR_BATCH, OUR_RATE = 256, 1e-4


def memory_table() -> str:
    """GB of one of 8 ranks before its first activation, and how much of it goes while it rests."""
    size = model_size(LxmertConfig())
    lines = []
    for precision in ("fp32", "bf16"):
        for stage in range(4):
            autocast = precision == "bf16" and stage == 0
            how = Partition(stage, RANKS, weight_bytes(precision, stage), autocast=autocast)
            one = rank_memory(size, how)
            parts = one.weights, one.masters, one.states, one.gradients, one.buckets, one.gathered, one.update
            cells = [f"{part / 1e9:.2f}" for part in (*parts, one.peak(0))]
            lines.append([precision, str(stage), *cells])
    titles = "weights", "masters", "states", "gradients", "buckets", "gathered", "update", "at most"
    return table(["precision", "ZeRO", *titles], lines)


def micro_table() -> str:
    """Pairs in a forward pass."""
    config = LxmertConfig()
    size, assumed = model_size(config), Assumptions()
    kinds = [
        ("fp32", 0, False),
        ("fp32", 2, False),
        ("bf16", 0, False),
        ("bf16", 2, False),
        ("bf16", 2, True),
    ]
    lines = []
    for gigabytes in GPU_GIGABYTES:
        cluster = Cluster(gpus=RANKS, memory=gigabytes * 1e9)
        runs = [Run(config, precision=p, stage=stage, checkpointing=twice) for p, stage, twice in kinds]
        found = [most_pairs(run, cluster, assumed, size) for run in runs]
        lines.append([f"{gigabytes} GB", *(f"{pairs:,}" if pairs else "none" for pairs in found)])
    titles = [f"{p}, ZeRO {stage}{', checkpointing' * twice}" for p, stage, twice in kinds]
    return table(["GPU", *titles], lines)


def efficiency_table() -> str:
    """From 8 GPUs on, `Cluster`'s H100."""
    found = points(Run(LxmertConfig(), batch=LARGEST), Cluster(nodes=128), Assumptions())
    return points_table([point for point in found if point.gpus in (8, 16, 32, 128, 1024)])


def recipe_table() -> str:
    """Learning rates and warm-up by the rules of two papers; none was run."""
    lines = []
    for batch in (2**k for k in range(8, 16)):
        share = batch / LARGEST
        lines.append(
            [
                f"{batch:,}",
                f"{LAMB_RATE * share**0.5:.2e}",
                f"{LAMB_WARMUP * share:.4f}",
                f"{OUR_RATE * batch / OUR_BATCH:.1e}",
                f"{20 * (PAPER_PAIRS // batch):,}",
            ]
        )
    titles = [
        "batch_size",
        "lr, LAMB",
        "warmup, LAMB",
        "lr, linear from the original's",
        "updates in 20 epochs",
    ]
    return table(titles, lines)


def tables() -> dict[str, str]:
    """Every table of the page by its mark."""
    return {
        "memory": memory_table(),
        "micro": micro_table(),
        "recipe": recipe_table(),
        "efficiency": efficiency_table(),
    }


def main(arguments: Sequence[str]) -> None:
    """Print the tables, or put them into the page."""
    print_or_put(tables(), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
