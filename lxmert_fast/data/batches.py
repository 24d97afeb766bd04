"""Which examples stand in which batch, and the loader that builds them.

An epoch has one order, drawn here, and an update takes the next places of it; every other random choice about
an example follows from its place (`draws`). How the places of an update are cut over ranks and forward passes
changes nothing about them, nor does the number of workers, and a run that stopped goes on with the places it
would have seen next, on as many ranks as it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from lxmert_fast.data.raising_loader import RaisingLoader
from lxmert_fast.data.sharing import Runs
from lxmert_fast.errors import InputError


class BatchKey(NamedTuple):
    """What a data set needs to build one batch."""

    epoch: int
    first: int
    """The place of rows[0] in the epoch's order; the others follow it."""
    rows: np.ndarray
    """(B,) int64 example numbers."""
    run_start: int | None = None
    """The place where the run of rows[0] begins, which an earlier batch may hold; None without runs."""


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

    An update takes the next `batch_size` places of the order, cut in num_ranks * accumulation pieces whose
    sizes differ by at most one; rank r's a-th batch of the update is piece a * num_ranks + r. So ranks in
    turn see the order that one process would see, examples that stand together stay together, and all take
    the same number of steps without repeating an example.

    Args:
        num_examples: examples in an epoch.
        batch_size: pairs of one update, over all ranks and forward passes.
        seed: of the order.
        shuffle: False keeps file order, or with `runs` the order of their groups.
        drop_last: leave out what does not fill an update, as the original does in training. False makes it
            one more, smaller update, or, where that would leave a rank without a batch, adds it to the last.
        runs: examples that stand together; None shuffles each on its own.
        rank, num_ranks: whose batches these are, and of how many.
        accumulation: batches of a rank in one update.

    Raises:
        InputError: an update of fewer pairs than pieces, an epoch without an update, runs of other examples,
            a rank outside 0 to num_ranks - 1.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = True,
        runs: Runs | None = None,
        rank: int = 0,
        num_ranks: int = 1,
        accumulation: int = 1,
    ) -> None:
        if not 0 <= rank < num_ranks:
            raise InputError(f"rank {rank} of {num_ranks}, wanted 0 to {num_ranks - 1}")
        if accumulation < 1:
            raise InputError(f"accumulation is {accumulation}, wanted at least 1")
        pieces = num_ranks * accumulation
        cut = f", one for each of {num_ranks} ranks x {accumulation} forward passes" if pieces > 1 else ""
        if batch_size < pieces:
            raise InputError(f"batch size is {batch_size}, wanted at least {pieces}{cut}")
        least = batch_size if drop_last else pieces
        if num_examples < least:
            raise InputError(
                f"{num_examples} examples, wanted at least {least}"
                f"{cut if least == pieces else ', the batch size of one update'}"
            )
        if runs is not None and len(runs) != num_examples:
            raise InputError(f"runs of {len(runs)} examples, wanted {num_examples}")
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.runs = runs
        self.rank = rank
        self.num_ranks = num_ranks
        self.accumulation = accumulation
        self._epoch = 0
        self._start = 0

    def set_position(self, epoch: int, step: int = 0) -> None:
        """The next iteration is of `epoch` and begins with this rank's batch `step`, which may be its end.

        Update u begins with batch u * accumulation, on however many ranks. Without a call, each iteration is
        the epoch after the one before.
        """
        if epoch < 0 or not 0 <= step <= len(self):
            raise InputError(f"epoch {epoch}, batch {step}: wanted a batch of 0 to {len(self)}")
        self._epoch, self._start = epoch, step

    @property
    def updates(self) -> int:
        """Updates in a whole epoch: with `drop_last` the same for any ranks and accumulation."""
        whole, left = divmod(self.num_examples, self.batch_size)
        return whole + (not self.drop_last and left >= self.num_ranks * self.accumulation)

    def __len__(self) -> int:
        """Batches of this rank, and of every other, in a whole epoch."""
        return self.updates * self.accumulation

    def __iter__(self) -> Iterator[BatchKey]:
        # A loader with workers makes two iterators and draws from one: a generator moves on only when drawn.
        epoch, start = self._epoch, self._start
        self._epoch, self._start = epoch + 1, 0
        order = self._order(epoch)
        for step in range(start, len(self)):
            first, last = self._places(step)
            yield BatchKey(epoch, first, order[first:last], self._run_start(order, first))

    def _order(self, epoch: int) -> np.ndarray:
        # numpy pads seeds with zeros: without the 1, another stream of the epoch could be this one
        rng = np.random.default_rng([self.seed, epoch, 0, 1])
        if self.runs is not None:
            return self.runs.shuffled(rng) if self.shuffle else self.runs.in_order()
        order = np.arange(self.num_examples)
        if self.shuffle:
            rng.shuffle(order)
        return order

    def _places(self, step: int) -> tuple[int, int]:
        """Where in the order this rank's batch begins and ends."""
        update, turn = divmod(step, self.accumulation)
        first = update * self.batch_size
        rest = not self.drop_last and update == self.updates - 1
        count = self.num_examples - first if rest else self.batch_size
        piece, pieces = turn * self.num_ranks + self.rank, self.num_ranks * self.accumulation
        return first + count * piece // pieces, first + count * (piece + 1) // pieces

    def _run_start(self, order: np.ndarray, first: int) -> int | None:
        if self.runs is None:
            return None
        groups, start = self.runs.groups, first
        while start and groups[order[start - 1]] == groups[order[first]]:
            start -= 1
        return start


def make_loader(
    dataset: Dataset,
    batches: EpochBatches,
    *,
    num_workers: int = 0,
    start_worker: Callable[[int], None] | None = None,
) -> DataLoader:
    """A loader whose items are the `Batch`es that `dataset[key]` builds, in order.

    Workers inherit the data set's arrays, stay for all epochs and send tensors through shared memory.

    Args:
        dataset: `dataset[BatchKey]` is a `Batch`.
        batches: the keys; `set_position` before each epoch.
        num_workers: processes that build batches ahead; 0 builds them when asked.
        start_worker: called with its number in each of them at its start.

    Raises, while it is read:
        InputError: what `dataset[key]` raises, in its own words whichever process met it.
    """
    if num_workers:
        # The tokeniser warns in every process forked after its threads ran; workers do not tokenise.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return RaisingLoader(
        dataset,
        sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # BatchKey and Batch hold numpy arrays and strings that must arrive as they are
        collate_fn=_as_it_is,
        # its own, or starting an epoch would draw from the generator that dropout draws from
        generator=torch.Generator(),
    )


class BuiltOnArrival:
    """Stands for `build(*parts)` in a worker's batch; the process that receives the batch makes it.

    Fresh pages of shared memory cost more than anything else a loader does (36 ms for the features of 256
    images, against 6 ms for a copy in private memory). So a tensor that follows from another one of the same
    batch is not sent: it pickles as the call that makes it, and arrives as the result.
    """

    def __init__(self, build: Callable[..., Any], *parts: Any) -> None:
        self.build = build
        self.parts = parts

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.build, self.parts


def on_arrival(build: Callable[..., Any], *parts: Any) -> Any:
    """`build(*parts)`, made at once, or by the receiver where this is a loader's worker."""
    return build(*parts) if get_worker_info() is None else BuiltOnArrival(build, *parts)


def _as_it_is(batch: Batch) -> Batch:
    return batch
