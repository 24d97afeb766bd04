"""The tables of kernels/README.md: operators beside eager PyTorch, and what an A100 and an H100 might take.

    python -m lxmert_fast.bench.roofline [kernels/README.md]    prints them, or puts them between their marks

Nothing is run. Launches and bytes are counted (`counts.py`, `eager_costs.py`). Times are estimates: the
largest of bytes over bandwidth, products over their peak, and random words over the rate of integer
multiplications.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import LxmertConfig

from lxmert_fast.bench.contenders import OURS_EAGER, REFERENCE
from lxmert_fast.bench.counts import count
from lxmert_fast.bench.cuda_dropout import CudaDropout
from lxmert_fast.bench.device_counts import META, count_on_device
from lxmert_fast.bench.eager_costs import Cost, eager_cost
from lxmert_fast.bench.gpu.formulas import Given
from lxmert_fast.bench.gpu.kernels import arguments
from lxmert_fast.bench.step_calls import HALF, Call, Place, step_calls
from lxmert_fast.bench.workloads import Workload, config_for, workload
from lxmert_fast.kernels.configs import DEFAULT, attention_key, power_of_two
from lxmert_fast.pages import print_or_put, table

#: Integer multiplications of a draw in the machine code of `tiles.keep`, the same for sm_80 and sm_90, and
#: how many of them a multiprocessor does in a clock (CUDA's programming guide).
MULTIPLICATIONS, A_CLOCK = 18, 64
#: Seconds from one launch to the next; an assumption.
LAUNCH = 4e-6


class Gpu(NamedTuple):
    """Peaks of a GPU, from its data sheet."""

    name: str
    bandwidth: float
    """Bytes a second."""
    products: float
    """FLOP a second of dense bf16 products."""
    clocks: float
    """Of all multiprocessors together, a second."""

    @property
    def draws(self) -> float:
        """Random words a second."""
        return self.clocks * A_CLOCK / MULTIPLICATIONS


GPUS = Gpu("A100", 2.0e12, 312e12, 108 * 1.41e9), Gpu("H100", 3.35e12, 989e12, 132 * 1.83e9)


@dataclass(frozen=True)
class Row:
    """One operator on one kind of rows."""

    call: Call
    ours: Cost
    eager: Cost
    flops: int
    """Of products, over whole tiles."""
    draws: int
    """Of random words, over whole tiles."""

    def bounds(self, gpu: Gpu) -> dict[str, float]:
        """Seconds that each part takes alone."""
        return {
            "bytes": self.call.least / gpu.bandwidth,
            "products": self.flops / gpu.products,
            "dropout": self.draws / gpu.draws,
        }

    def seconds(self, gpu: Gpu) -> float:
        """As if the parts overlapped fully."""
        return max(self.bounds(gpu).values())

    def cell(self, gpu: Gpu) -> str:
        """Microseconds and what bounds them."""
        bounds = self.bounds(gpu)
        return f"{self.seconds(gpu) * 1e6:.1f} {max(bounds, key=lambda name: bounds[name])}"


def rows_of(of: Workload, config: LxmertConfig) -> Iterator[Row]:
    """Every call of a training step."""
    whole = step_calls(of, config, Place(META, torch.bfloat16, whole=True))
    given: Given = {}
    for on_host, call in zip(step_calls(of, config), whole, strict=True):
        if call.kernel.endswith("_forward"):
            given = arguments(call)[1]
            if "table" in given:
                given["table"] = arguments(on_host)[1]["table"]  # tables have their numbers on the host
        counted = count(call.run)
        ours = Cost(counted.launches, counted.bytes_moved)
        yield Row(call, ours, eager_cost(call, given), *_work(call, given, config))


def _work(call: Call, given: Given, config: LxmertConfig) -> tuple[int, int]:
    """FLOPs of products, and random words; a tile has a power of two of columns and computes all of them."""
    if call.kernel.startswith("attention"):
        key = attention_key(given["most_keys"], config.hidden_size // config.num_attention_heads, HALF)
        keys, width, _ = key
        chosen = DEFAULT[call.kernel][key]
        rows = min(chosen.rows, power_of_two(given["most_queries"]))
        lanes = config.num_attention_heads * int((-(-given["table"][:, 2] // rows)).sum()) * rows * keys
        if call.kernel.endswith("_forward"):
            return 2 * lanes * width * 2, lanes
        # each program of some columns computes scores and their gradients, two of the five products
        slices = -(-width // (chosen.columns or width))
        return 2 * lanes * width * (2 * slices + 3), lanes * slices
    if call.kernel.split("_")[0] in ("norm", "text", "visual"):
        x = next(given[name] for name in ("x", "ids", "feature") if name in given)
        return 0, len(x) * power_of_two(config.hidden_size, 64)
    return 0, 0


def against_eager(rows: Sequence[Row]) -> str:
    """A row a kernel: launches and bytes of a step's calls."""
    kernels = dict.fromkeys(row.call.kernel for row in rows)
    lines = [_against(name, [row for row in rows if row.call.kernel == name]) for name in kernels]
    titles = ["kernel", "calls a step", "launches", "eager's", "MB", "eager's", "ratio"]
    return table(titles, [*lines, _against("all", rows)])


def _against(name: str, rows: Sequence[Row]) -> list[str]:
    ours, eager = (
        [sum(column) for column in zip(*(cost(row).times(row.call.times) for row in rows), strict=True)]
        for cost in (lambda row: row.ours, lambda row: row.eager)
    )
    figures = [f"{sum(row.call.times for row in rows)}", f"{ours[0]}", f"{eager[0]:,}"]
    return [name, *figures, f"{ours[1] / 1e6:,.0f}", f"{eager[1] / 1e6:,.0f}", f"{ours[1] / eager[1]:.2f}"]


def estimate(rows: Sequence[Row]) -> str:
    """A row a call, forward / backward: what it must move and compute, time and its bound; a step's sum."""
    calls: dict[str, list[Row]] = {}
    for row in rows:
        calls.setdefault(row.call.what, []).append(row)
    lines = [
        [
            what,
            f"{both[0].call.times}",
            _both(f"{row.call.least / 1e6:.1f}" for row in both),
            _both(f"{row.flops / 1e9:.2f}" for row in both if row.flops),
            _both(f"{row.draws / 1e6:.1f}" for row in both if row.draws),
            *(_both(row.cell(gpu) for row in both) for gpu in GPUS),
        ]
        for what, both in calls.items()
    ]
    launches = sum(row.call.times * row.ours.launches for row in rows)
    sums = [f"{sum(row.call.times * row.seconds(gpu) for row in rows) * 1e3:.2f} ms" for gpu in GPUS]
    floor = f"{launches * LAUNCH * 1e3:.2f} ms"
    lines.append(["a step's sum", *[""] * 4, *sums])
    lines.append([f"its {launches} launches, {LAUNCH * 1e6:.0f} us each", *[""] * 4, floor, floor])
    titles = ["call", "times", "least MB", "GFLOP", "M words", *(f"{gpu.name}, us" for gpu in GPUS)]
    return table(titles, lines)


def _both(cells: Iterable[str]) -> str:
    """Of forward and of backward."""
    return " / ".join(cells)


def steps(names: Sequence[str] = ("vqa", "captions"), *, tiny: bool = False) -> str:
    """Whole training steps, products and losses with them, beside Hugging Face's eager model."""
    lines = []
    for name in names:
        sized = workload(name)
        with CudaDropout():
            found = count_on_device(sized, config_for(sized, tiny=tiny))["step"]
        ours, eager = found[OURS_EAGER], found[REFERENCE]
        for what, of, form, unit in (
            ("launches", "launches", ",.0f", 1.0),
            (f"ms of launches, {LAUNCH * 1e6:.0f} us each (estimate)", "launches", ".1f", 1e-3 / LAUNCH),
            ("GB moved", "bytes_moved", ".2f", 1e9),
            ("GB kept for backward", "saved_bytes", ".2f", 1e9),
        ):
            a, b = getattr(ours, of), getattr(eager, of)
            step = f"{name}, {sized.pairs} pairs"
            lines.append([step, what, f"{a / unit:{form}}", f"{b / unit:{form}}", f"{a / b:.3f}"])
    return table(["step", "", "ours", "Hugging Face eager", "ratio"], lines)


def tables() -> dict[str, str]:
    """Every table of the page by its mark."""
    sized = workload("vqa")
    rows = list(rows_of(sized, config_for(sized)))
    return {"eager": against_eager(rows), "roofline": estimate(rows), "steps": steps()}


def main(arguments: Sequence[str]) -> None:
    """Print the tables, or put them into the page."""
    print_or_put(tables(), arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
