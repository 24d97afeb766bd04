"""Which examples stand in which batch, and the loader that builds them.

A batch is a function of (seed, epoch, step): its rows are drawn here, every other random choice inside it
comes from the same three numbers. So any number of workers gives the same batches, and a run that stopped
goes on with the batch it would have seen next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class BatchKey(NamedTuple):
    """What a data set needs to build one batch."""

    epoch: int
    step: int
    """Index of the batch within its epoch."""
    rows: np.ndarray
    """(B,) int64 example numbers."""


class Batch(NamedTuple):
    """B examples, ready for a model."""

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward: tensors, or tuples and dicts of them."""
    example_ids: list[str]
    """B printable names, for error messages."""
    extras: dict[str, Any]
    """What metrics need and the model does not."""


class EpochBatches(Sampler[BatchKey]):
    """The batches of an epoch, each example once; the order depends on (seed, epoch) alone.

    Args:
        num_examples: examples in an epoch.
        batch_size: B.
        seed: of the order.
        shuffle: False keeps file order.
        drop_last: leave out what does not fill a batch, as the original does in training.
    """

    def __init__(
        self, num_examples: int, batch_size: int, *, seed: int, shuffle: bool = True, drop_last: bool = True
    ) -> None:
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, step: int = 0) -> None:
        """The next iteration is of `epoch` and begins with its batch `step`."""
        self.epoch, self.start = epoch, step

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        rounding = 0 if self.drop_last else self.batch_size - 1
        return (self.num_examples + rounding) // self.batch_size

    def __iter__(self) -> Iterator[BatchKey]:
        order = np.arange(self.num_examples)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_examples)
        for step in range(self.start, len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield BatchKey(self.epoch, step, rows)


def make_loader(dataset: Dataset, batches: EpochBatches, *, num_workers: int = 0) -> DataLoader:
    """A loader whose items are the `Batch`es that `dataset[key]` builds, in order.

    Args:
        dataset: `dataset[BatchKey]` is a `Batch`.
        batches: the keys; `set_position` before each epoch.
        num_workers: processes that build batches ahead; 0 builds them when asked.
    """
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        num_workers=num_workers,
        prefetch_factor=4 if num_workers else None,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # BatchKey and Batch hold numpy arrays and strings that must arrive as they are
        collate_fn=_as_it_is,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
