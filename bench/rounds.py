"""One benchmark: a workload's contenders in turns, its counts, and all of it in pytest-benchmark's JSON.

The timed function of a benchmark is a whole round, which ends with the machine's own matrix products; what
each contender took is in `extra_info["race"]`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE, Mode, contenders
from lxmert_fast.bench.counts import count_contender
from lxmert_fast.bench.machine import TOKENS, matrix_rate
from lxmert_fast.bench.race import Race
from lxmert_fast.bench.workloads import Workload, batches, config_for, mean_length

#: Seconds for rounds that confirm the fastest ones.
EXTRA = 60.0


def measure(
    benchmark: BenchmarkFixture,
    workload: Workload,
    mode: Mode,
    *,
    tiny: bool,
    names: Sequence[str] | None = None,
    rounds: int = 3,
    counted: bool = False,
) -> None:
    """Time a workload and put it into the benchmark's `extra_info`.

    Args:
        names: of the contenders; all if None.
        tiny: a tiny model, whose times mean nothing: no further rounds.
        rounds: at the least; for up to `EXTRA` seconds more where the machine is not quiet.
        counted: also count FLOPs, operations and bytes of Hugging Face's eager model and of ours.

    Raises:
        AssertionError: a contender's values were wrong; the others' times are in the JSON all the same.
    """
    config = config_for(workload, tiny=tiny)
    drawn = batches(workload, config, labels=mode == "step")
    race = Race(contenders(workload, config, drawn, mode, names))
    rates: list[float] = []

    def one_round() -> None:
        race.round()
        rates.append(matrix_rate((64,) if tiny else TOKENS))

    benchmark.pedantic(one_round, rounds=rounds)
    until = time.monotonic() + EXTRA
    while not tiny and not race.settled and time.monotonic() < until:
        one_round()
    benchmark.extra_info["race"] = {
        "workload": workload.name,
        "mode": mode,
        "pairs": workload.pairs,
        "per_image": workload.per_image,
        "mean_tokens": round(mean_length(workload), 2),
        "matrix_rate": max(rates),
        "entries": [entry.to_json() for entry in race.entries.values()],
        "counts": _counts(race) if counted else {},
    }
    print(*race.lines(), sep="\n")
    # the next race needs the memory, and must not meet this one's compiled code
    race.running.clear()
    gc.collect()
    torch.compiler.reset()
    faults = [entry.fault for entry in race.entries.values() if entry.failed]
    assert not faults, "; ".join(map(str, faults))


def _counts(race: Race) -> dict[str, Any]:
    return {
        name: count_contender(contender).to_json()
        for name in (REFERENCE, OURS_EAGER)
        for contender in race.running
        if contender.name == name
    }
