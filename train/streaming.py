"""A model over a data set, batch by batch: examples of one image together, the next batch read meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from lxmert_fast.data.batches import Batch, EpochBatches, make_loader
from lxmert_fast.data.sharing import Runs

from .engine import to_device
from .ranks import Ranks
from .stop import leave_signals_to_the_trainer


def grouped_batches(runs: Runs, batch_size: int, ranks: Ranks | None = None) -> EpochBatches:
    """Every example once, group after group, so that what a group shares is read and encoded once.

    Several `ranks` share the examples, `batch_size` of them at a time.
    """
    ranks = ranks or Ranks()
    return EpochBatches(
        len(runs),
        max(batch_size, ranks.size),
        seed=0,
        shuffle=False,
        drop_last=False,
        runs=runs,
        rank=ranks.rank,
        num_ranks=ranks.size,
    )


@torch.no_grad()  # not inference mode: weights that ZeRO 3 gathers in it could not be trained afterwards
def best_answers(
    model: PreTrainedModel,
    dataset: Dataset,
    batches: EpochBatches,
    *,
    scores: str = "question_answering_score",
    workers: int = 0,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Each batch of a data set with the best classes of its B pairs, (B,) int64; without dropout.

    A batch comes when the model has the next one, so that a GPU has work while its answers are looked at.

    Args:
        scores: which of the model's outputs holds them, (B, classes).
        workers: processes that read ahead.
    """
    model.eval()
    loader = make_loader(dataset, batches, num_workers=workers, start_worker=leave_signals_to_the_trainer)
    before: tuple[Batch, Tensor] | None = None
    for batch in loader:
        inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
        best = attrgetter(scores)(model(**to_device(inputs, model.device))).argmax(-1)
        if before is not None:
            yield before[0], before[1].cpu().numpy()
        before = batch, best
    if before is not None:
        yield before[0], before[1].cpu().numpy()
