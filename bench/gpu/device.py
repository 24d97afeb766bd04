"""The machine that is timed: a GPU, or the CPU of a dry run. All the rest is the same code on both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

#: More than the L2 cache of any GPU.
FLUSHED_BYTES = 2**28
#: Cycles that a GPU waits before a timed call, so that the host has queued it by then.
HEAD_START = 1_000_000
#: Calls before those that are timed.
WARM_UP = 3
#: What the CUDA runtime calls a launch, a copy and a fill.
LAUNCHES = "cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync"
Call = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over rounds."""

    seconds: list[float]

    def to_json(self) -> dict[str, Any]:
        """Rounds, fastest, median, 20th and 80th percentile."""
        ordered = sorted(self.seconds)
        last = len(ordered) - 1
        return {
            "seconds": self.seconds,
            "fastest": ordered[0],
            "median": statistics.median(ordered),
            "p20": ordered[round(0.2 * last)],
            "p80": ordered[round(0.8 * last)],
        }


class Device(Protocol):
    """Where everything runs and how it is timed."""

    torch: torch.device
    dry: bool
    """Whether no figure means anything."""

    def synchronize(self) -> None:
        """Wait until all work is done."""

    def time_kernel(self, call: Call, rounds: int) -> Timing:
        """Time on the device, with a cold cache, without what the host takes to launch."""

    def time_step(self, call: Call, rounds: int, seconds: float) -> Timing:
        """Time that passes from one call to its results: `rounds` calls, fewer if they take `seconds`."""

    def launches(self, call: Call) -> int | None:
        """What a call launches, copies included; None where it cannot be seen."""

    def watch_memory(self) -> None:
        """Forget the largest allocation so far."""

    def peak_bytes(self) -> int | None:
        """Most bytes allocated since `watch_memory`; None where nobody counts."""

    def allocated_bytes(self) -> int:
        """Bytes allocated now."""

    def free(self) -> None:
        """Give unused memory back."""


class Cpu:
    """For dry runs: every path of the code, no figure."""

    torch = torch.device("cpu")
    dry = True

    def synchronize(self) -> None:
        pass

    def time_kernel(self, call: Call, rounds: int) -> Timing:
        return self.time_step(call, min(rounds, 2), 1.0)

    def time_step(self, call: Call, rounds: int, seconds: float) -> Timing:
        return _by_clock(self, call, min(rounds, 2), min(seconds, 1.0), warm_up=1)

    def launches(self, call: Call) -> int | None:
        return None

    def watch_memory(self) -> None:
        pass

    def peak_bytes(self) -> int | None:
        return None

    def allocated_bytes(self) -> int:
        return 0

    def free(self) -> None:
        pass


class Cuda:
    """The first GPU."""

    torch = torch.device("cuda")
    dry = False

    def __init__(self) -> None:
        self._flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=self.torch)

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def time_kernel(self, call: Call, rounds: int) -> Timing:
        for _ in range(WARM_UP):
            call()
        marks = []
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flushed.zero_()
            torch.cuda._sleep(HEAD_START)
            start.record()
            call()
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize()
        return Timing([start.elapsed_time(end) / 1e3 for start, end in marks])

    def time_step(self, call: Call, rounds: int, seconds: float) -> Timing:
        return _by_clock(self, call, rounds, seconds, warm_up=WARM_UP)

    def launches(self, call: Call) -> int | None:
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as seen:
            call()
            torch.cuda.synchronize()
        counted = sum(row.count for row in seen.key_averages() if row.key.startswith(LAUNCHES))
        return counted or None  # a container may forbid profiling

    def watch_memory(self) -> None:
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated()

    def allocated_bytes(self) -> int:
        return torch.cuda.memory_allocated()

    def free(self) -> None:
        torch.cuda.empty_cache()


def find_device(dry_run: bool) -> Device:
    """The GPU, or the CPU where there is none or a dry run is wanted."""
    return Cpu() if dry_run or not torch.cuda.is_available() else Cuda()


def _by_clock(device: Device, call: Call, rounds: int, seconds: float, warm_up: int) -> Timing:
    for _ in range(warm_up):
        call()
    device.synchronize()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < rounds and (not taken or time.perf_counter() < until):
        began = time.perf_counter()
        call()
        device.synchronize()
        taken.append(time.perf_counter() - began)
    return Timing(taken)
