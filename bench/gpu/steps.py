"""Whole steps: inference, fine-tuning and pre-training, a contender after another, at several batches.

A contender is compared with fp32 before it is timed, on the values of the timed call without its dropout; the
timed values must be finite. What is timed is the time that passes, launches included. The optimizer, which is
the same for all, is left out. MFU counts useful FLOPs alone: those of this library's plan, which has neither
padding nor repeats, whoever is timed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from lxmert_fast.bench.contenders import OURS_EAGER, Mode
from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.environment import peak_flops
from lxmert_fast.bench.gpu.items import Item
from lxmert_fast.bench.gpu.models import COMPILED, REDUCED, Setting
from lxmert_fast.bench.gpu.results import Results
from lxmert_fast.bench.gpu.right import require_right
from lxmert_fast.bench.parity import require_finite, same_top_answers
from lxmert_fast.bench.workloads import mean_length, workload

RACES: tuple[tuple[str, Mode], ...] = ("vqa", "inference"), ("vqa", "step"), ("captions", "step")
#: Pairs, whether contenders that compile or those that do not, and the races. Compiling takes most of the
#: time, so one race has it early and the others when every batch has been seen without.
PASSES = (
    (32, False, RACES),
    (32, True, RACES[:1]),
    *((pairs, False, RACES) for pairs in (128, 8, 512)),
    (32, True, RACES[1:]),
    *((pairs, True, RACES) for pairs in (128, 8, 512)),
)
#: Dynamo alone takes most of a dry run, and meets the same code in every race.
DRY_PASSES = (4, False, RACES), (4, True, RACES[1:2])
ROUNDS, SECONDS = 50, 1.5
#: Contenders that are made ready twice, without dropout and with it.
COMPILE = COMPILED, REDUCED


def step_items(device: Device, results: Results) -> Iterator[Item]:
    """Every contender of every race that has no row yet."""
    for pairs, compiles, races in DRY_PASSES if device.dry else PASSES:
        for name, mode in races:
            setting = Setting(workload(name).sized(pairs), mode, device)
            for contender in setting.names():
                if (contender in COMPILE) is compiles:
                    yield Item(
                        f"steps/{setting.title}/{contender}",
                        "compiled step" if compiles else "step",
                        60.0 if compiles else 6.0,
                        partial(_entry, contender, setting, results),
                        setting.title,
                    )


def _entry(name: str, setting: Setting, results: Results) -> dict[str, Any]:
    """One contender's row; the race's own figures are noted with its first."""
    device = setting.device
    try:
        if setting.title not in results.races:
            results.races[setting.title] = _race(setting, results)
        race = results.races[setting.title]
        setting.wanted, setting.yardstick  # noqa: B018 (made before memory is watched)
        # an error's traceback may have kept an earlier contender's tensors until now
        gc.collect()
        device.free()
        return {"name": name, "fault": None, "failed": False, **_timed(name, setting, race)}
    finally:
        gc.collect()
        torch.compiler.reset()
        device.free()


def _timed(name: str, setting: Setting, race: dict[str, Any]) -> dict[str, Any]:
    device, pairs = setting.device, setting.workload.pairs
    before = device.allocated_bytes()
    device.watch_memory()
    began = time.perf_counter()
    contender = setting.contender(name)
    contender.prepare()
    values = contender.check()
    off = require_right(name, values, setting.wanted, setting.yardstick)
    same = same_top_answers(values["scores"], setting.wanted["scores"]) if "scores" in values else None
    del values
    require_finite(name, contender.run())
    device.synchronize()
    prepared = time.perf_counter() - began
    device.watch_memory()
    timing = device.time_step(contender.run, ROUNDS, SECONDS).to_json()
    peak = device.peak_bytes()
    require_finite(name, contender.run())
    useful = race["counts"].get(OURS_EAGER, {}).get("flops")
    best = None if device.dry else peak_flops(torch.cuda.get_device_name())
    return {
        **timing,
        "prepared": prepared,
        "difference": off,
        "same_top": same,
        "pairs_a_second": pairs / timing["median"],
        "peak_bytes": None if peak is None else peak - before + setting.weight_bytes,
        "mfu": useful / timing["median"] / best if useful and best else None,
        "launches": device.launches(contender.run),
    }


def _race(setting: Setting, results: Results) -> dict[str, Any]:
    """What the report wants of a race beside its entries."""
    sized = setting.workload
    try:
        counts = setting.counts
    except torch.OutOfMemoryError:
        counts = {}
    rate = next((row["matrix_rate"] for row in results.of("rates") if "matrix_rate" in row), 0.0)
    return {
        "workload": sized.name,
        "mode": setting.mode,
        "pairs": sized.pairs,
        "per_image": sized.per_image,
        "mean_tokens": round(mean_length(sized), 2),
        "matrix_rate": rate,
        "counts": counts,
    }
