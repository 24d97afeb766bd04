"""The command: parts in the order of what matters, each with its share of the time, a row after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lxmert_fast.bench.gpu.budget import Budget
from lxmert_fast.bench.gpu.device import Device, find_device
from lxmert_fast.bench.gpu.environment import environment, lines
from lxmert_fast.bench.gpu.items import BrokenDevice, Item, carry_out
from lxmert_fast.bench.gpu.kernels import kernel_items, rate_items
from lxmert_fast.bench.gpu.parity import base_items, small_items
from lxmert_fast.bench.gpu.results import Results
from lxmert_fast.bench.gpu.steps import step_items
from lxmert_fast.bench.gpu.table import summary
from lxmert_fast.errors import InputError

#: Shares of the time. Rates come first, since shares of them are asked for.
SHARES = {"rates": 1.0, "small": 8.0, "parity": 8.0, "kernels": 18.0, "steps": 65.0}
PARTS = ("small", "parity", "kernels", "steps")
NO_GPU = "no GPU that PyTorch can use on this machine: a dry run on the CPU instead"
Say = Callable[[str], None]


def run(
    out: Path,
    *,
    parts: Sequence[str] = PARTS,
    minutes: float = 10.0,
    dry_run: bool = False,
    fresh: bool = False,
    say: Say = print,
    now: Callable[[], float] = time.monotonic,
) -> Results:
    """Do what is not done yet, and leave it in `out`/results.json after every item.

    Args:
        parts: of `PARTS`; "small" is parity at small odd shapes alone, "parity" includes it.
        minutes: no item begins that would not end in them.
        dry_run: on the CPU; so it is without a GPU, too.
        fresh: do everything again.

    Raises:
        InputError: no such part, or a file that is no result of this.
    """
    chosen = _chosen(parts)
    device = find_device(dry_run)
    if device.dry and not dry_run:
        say(NO_GPU)
    budget = Budget(minutes, {part: SHARES[part] for part in chosen}, now)
    path = out / "results.json"
    if fresh:
        path.unlink(missing_ok=True)
    results = Results(path, environment(device))
    for line in lines(results.machine):
        say(line)
    if results.resumed:
        say(f"{path}: goes on after {len(results.rows)} items")
    try:
        for part in chosen:
            budget.begin(part)
            for item in _items(part, device, results):
                _carry_out(item, part, results, budget, say, now)
    except BrokenDevice as error:
        say(f"the GPU is in an error state: run it again to go on ({error.args[0]['fault']})")
    results.write()
    say("")
    say(summary(results))
    say(f"\n{path}")
    return results


def _chosen(parts: Sequence[str]) -> list[str]:
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise InputError(f"unknown part {', '.join(unknown)!r}, wanted some of {', '.join(PARTS)}")
    wanted = set(parts)
    wanted |= {"small"} if "parity" in wanted else set()
    wanted |= {"rates"} if wanted & {"kernels", "steps"} else set()
    return [part for part in SHARES if part in wanted]


def _items(part: str, device: Device, results: Results) -> Iterator[Item]:
    if part == "rates":
        return rate_items(device)
    if part == "small":
        return small_items(device)
    if part == "parity":
        return base_items(device)
    return kernel_items(device, results) if part == "kernels" else step_items(device, results)


def _carry_out(
    item: Item, part: str, results: Results, budget: Budget, say: Say, now: Callable[[], float]
) -> None:
    if item.name in results:
        return
    if not budget.allows(item.kind, item.expected):
        results.not_run.append(item.name)
        return
    kept = "parity" if part == "small" else part
    name = {"name": item.name.rsplit("/", 1)[-1]} if item.race else {}
    began = now()
    try:
        row = carry_out(item)
    except BrokenDevice as error:
        results.put(kept, item.name, name | error.args[0], item.race)
        raise
    budget.note(item.kind, now() - began)
    results.put(kept, item.name, name | row, item.race)
    if row["fault"]:
        say(f"{item.name}: {row['fault']}")
    elif part in ("kernels", "steps"):
        say(f"{item.name}: {row['median'] * 1e3:,.3f} ms")
