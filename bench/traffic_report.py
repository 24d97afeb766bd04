"""Traffic by kernel: what a training step loads and stores over the least, and what it may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lxmert_fast.bench.traffic import Traffic
from lxmert_fast.pages import table

#: Most bytes over the least bytes, in a whole step.
LIMITS = {
    "norm_forward": 1.15,
    "norm_backward": 1.15,
    "gelu_forward": 1.15,
    "gelu_backward": 1.15,
    "attention_forward": 1.3,
    "attention_backward": 1.3,
    "visual_forward": 1.3,
    "visual_backward": 1.3,
    "sum_readers": 1.15,
    "text_forward": 1.3,
    "text_backward": 1.3,
}
SHARED = "shared rows"


@dataclass(frozen=True)
class Row:
    """Of a kernel in a workload's step."""

    workload: str
    kernel: str
    part: str
    """Empty for all calls; `SHARED` for those of them whose rows several pairs read."""
    calls: int
    bytes: int
    least: int

    @property
    def ratio(self) -> float:
        """Bytes over the least bytes."""
        return self.bytes / self.least

    @property
    def limit(self) -> float | None:
        """None for a part: each of the pairs that share a row reads it, and that is known."""
        return None if self.part else LIMITS[self.kernel]

    @property
    def over(self) -> bool:
        """Whether the limit is exceeded."""
        return self.limit is not None and self.ratio > self.limit

    @property
    def title(self) -> str:
        """One line, for who has to look into it."""
        return f"{self.workload}, {self.kernel}: {self.ratio:.3f} of the least bytes, at most {self.limit}"

    def to_json(self) -> dict[str, Any]:
        """With what follows from the fields."""
        return asdict(self) | {"ratio": self.ratio, "limit": self.limit, "over": self.over}


def rows_of(found: list[Traffic]) -> list[Row]:
    """One row a workload and kernel, weighted by the calls of a step, and one for the part that shares."""
    groups: dict[tuple[str, str], list[Traffic]] = {}
    for call in found:
        groups.setdefault((call.workload, call.kernel), []).append(call)
    rows = []
    for calls in groups.values():
        rows.append(_sum(calls, ""))
        shared = [call for call in calls if call.shared]
        if shared and len(shared) < len(calls):
            rows.append(_sum(shared, SHARED))
    return rows


def _sum(calls: list[Traffic], part: str) -> Row:
    return Row(
        calls[0].workload,
        calls[0].kernel,
        part,
        sum(call.times for call in calls),
        sum(call.times * call.bytes for call in calls),
        sum(call.times * call.least for call in calls),
    )


def to_json(found: list[Traffic]) -> dict[str, Any]:
    """Calls, and kernels of a step."""
    calls = [asdict(call) for call in found]
    return {"calls": calls, "kernels": [row.to_json() for row in rows_of(found)]}


def kernels_table(found: list[Traffic]) -> str:
    """A row a kernel, MB a step."""
    lines = []
    for row in rows_of(found):
        name = f"of these, {row.part}" if row.part else row.kernel
        limit = "" if row.limit is None else f"{row.limit:g}"
        figures = [f"{row.calls}", _megabytes(row.bytes), _megabytes(row.least), f"{row.ratio:.3f}", limit]
        lines.append([row.workload, name, *figures])
    return table(["workload", "kernel", "calls a step", "MB", "least MB", "ratio", "at most"], lines)


def calls_table(found: list[Traffic]) -> str:
    """A row a kind of call, MB a call."""
    lines = [
        [
            call.workload,
            call.kernel,
            call.what + (f" ({SHARED})" if call.shared else ""),
            f"{call.times}",
            _megabytes(call.bytes),
            _megabytes(call.least),
            f"{call.bytes / call.least:.3f}",
        ]
        for call in found
    ]
    titles = ["workload", "kernel", "call", "calls a step", "MB a call", "least MB", "ratio"]
    return table(titles, lines)


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.2f}"
