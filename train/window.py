"""What is summed up between two lines of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from lxmert_fast.data.batches import Batch

from .ranks import Ranks


class Window:
    """Losses, pairs, tokens and waiting of the updates since the last line, over all ranks."""

    def __init__(self) -> None:
        self.last_loss = math.nan
        self.waited = 0.0
        """Seconds that this rank has waited for data, since it was last read."""
        self.reset()

    def reset(self) -> None:
        """Begin a new line."""
        self._sums: dict[str, float] = {}
        self._updates = 0
        self._pairs = self._tokens = self._waited = 0.0
        self._began = time.perf_counter()

    def timed(self, loader: Any) -> Iterator[Batch]:
        """The loader's batches; time spent waiting for them is counted."""
        iterator = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def add(self, pairs: float, tokens: float, waited: float) -> None:
        """What an update took: sums over the ranks, mean waiting."""
        self._pairs += pairs
        self._tokens += tokens
        self._waited += waited

    def add_losses(self, losses: dict[str, float]) -> None:
        """Of an update that is not left out: global means by name, "total" among them."""
        self.last_loss = losses["total"]
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._updates += 1

    def mean_losses(self) -> dict[str, float]:
        """By name, over the updates of this line; {} where there were none."""
        return {name: value / self._updates for name, value in self._sums.items()}

    def rates(self) -> dict[str, float]:
        """Pairs and text tokens a second, and the share of the time that was spent waiting for data."""
        elapsed = time.perf_counter() - self._began
        return {
            "pairs_per_second": self._pairs / elapsed,
            "tokens_per_second": self._tokens / elapsed,
            "data_wait_share": self._waited / elapsed,
        }


def memory_gib(ranks: Ranks) -> dict[str, float]:
    """The most that any rank holds now on the host, and has held on its GPU, in GiB; all ranks call."""
    here = {"host": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        here["gpu"] = torch.cuda.max_memory_allocated()
    told = ranks.gather(here)
    return {name: max(found[name] for found in told) / 2**30 for name in here}
