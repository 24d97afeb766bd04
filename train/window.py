"""What is summed up between two lines of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import psutil
import torch

from lxmert_fast.data.batches import Batch
from lxmert_fast.flops import device_peak

from .engine import HALF
from .ranks import Ranks
from .shares import Counts


class Window:
    """Losses, pairs, tokens, FLOPs and waiting of the updates since the last line, over all ranks.

    Args:
        peak: FLOP a second of all ranks' devices together, None where it is not known.
    """

    def __init__(self, peak: float | None = None) -> None:
        self.peak = peak
        self.last_loss = math.nan
        self.waited = 0.0
        """Seconds that this rank has waited for data, since it was last read."""
        self.reset()

    def reset(self) -> None:
        """Begin a new line."""
        self._sums: dict[str, float] = {}
        self._updates = 0
        self._pairs = self._tokens = self._flops = self._waited = 0.0
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

    def add(self, totals: Counts, waited: float) -> None:
        """What an update took: counts of all ranks ("pairs", "tokens", "flops"), mean waiting."""
        self._pairs += totals.get("pairs", 0.0)
        self._tokens += totals.get("tokens", 0.0)
        self._flops += totals.get("flops", 0.0)
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
        """Pairs, text tokens and model TFLOP a second, the share of time spent waiting for data, and "mfu".

        Model FLOPs are those of the exact execution plan, forward and backward, whatever else is computed;
        "mfu" is their share of the peak, absent where that is not known.
        """
        elapsed = time.perf_counter() - self._began
        rates = {
            "pairs_per_second": self._pairs / elapsed,
            "tokens_per_second": self._tokens / elapsed,
            "model_tflops_per_second": self._flops / elapsed / 1e12,
            "data_wait_share": self._waited / elapsed,
        }
        return rates if self.peak is None else rates | {"mfu": self._flops / elapsed / self.peak}


def known_peak(device: torch.device, precision: str, num_ranks: int) -> float | None:
    """FLOP a second of so many devices like this one, in half precision; None where no data sheet says.

    In fp32 it depends on more than the device (TF32, how many products are split), so there is none.
    """
    if device.type != "cuda" or precision not in HALF:
        return None
    one = device_peak(torch.cuda.get_device_name(device))
    return None if one is None else one * num_ranks


def memory_gib(ranks: Ranks) -> dict[str, float]:
    """The most that any rank holds now on the host, and has held on its GPU, in GiB; all ranks call."""
    here = {"host": psutil.Process().memory_info().rss}
    if torch.cuda.is_available():
        here["gpu"] = torch.cuda.max_memory_allocated()
    told = ranks.gather(here)
    return {name: max(found[name] for found in told) / 2**30 for name in here}
