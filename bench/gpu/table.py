"""The short table at the end of a run: parity, kernels, steps, what is wrong and what was not run."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from lxmert_fast.bench.contenders import COMPILED, OURS_EAGER, REFERENCE
from lxmert_fast.bench.gpu.models import GRAPHS, REDUCED
from lxmert_fast.bench.gpu.results import Results, Row

DRY = "dry run: no figure means anything"
_SHOWN = {
    REFERENCE: "HF eager",
    COMPILED: "HF compiled",
    REDUCED: "HF reduce-ov.",
    "huggingface sdpa": "HF sdpa",
    OURS_EAGER: "ours",
    GRAPHS: "ours, graphs",
}
#: Faults and items not run that are named; the file has them all.
_NAMED = 10


def summary(results: Results) -> str:
    """All of it."""
    parts = [
        DRY if results.machine.get("dry_run") else "",
        _parity(results.of("parity")),
        _kernels(results.of("kernels")),
        _steps(results),
        _faults(list(results.rows.values())),
        _named("not run, the time was too short", results.not_run),
    ]
    return "\n\n".join(part for part in parts if part)


def _parity(rows: list[Row]) -> str:
    wrong = sum(bool(row["fault"]) for row in rows)
    return f"parity: {len(rows) - wrong} of {len(rows)} calls of operators are right" if rows else ""


def _kernels(rows: list[Row]) -> str:
    """A line a kernel: all its calls of the steps together."""
    by_kernel: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if "median" in row:
            by_kernel[row["kernel"]].append(row)
    lines = []
    for kernel, calls in by_kernel.items():
        seconds = sum(row["median"] * row["times"] for row in calls)
        rate = sum(row["least"] * row["times"] for row in calls) / seconds
        shares = [row["share_of_copy"] for row in calls if row["share_of_copy"]]
        copied = calls[0]["bytes_a_second"] / calls[0]["share_of_copy"] if shares else None
        beside = [
            f"{name} {_together(calls, name) / seconds:.2f} x"
            for name in calls[0]["beside"]
            if all(name in row["beside"] for row in calls)
        ]
        share = f"{rate / copied:6.0%}" if copied else "     -"
        lines.append(
            f"{kernel:<20}{seconds * 1e6:10,.0f} us{rate / 1e9:9,.0f} GB/s{share}   {', '.join(beside)}"
        )
    head = f"{'kernel, in two steps':<20}{'time':>13}{'bytes':>14}{'of copy':>8}  time of others over ours"
    return "\n".join([head, *lines]) if lines else ""


def _together(calls: list[Row], name: str) -> float:
    return sum(row["beside"][name]["median"] * row["times"] for row in calls)


def _steps(results: Results) -> str:
    """A line a race: milliseconds, MFU and peak memory of ours."""
    lines = []
    for title in results.races:
        entries = {row["name"]: row for row in results.of("steps") if row["race"] == title and "name" in row}
        cells = [_milliseconds(entries.get(name, {})) for name in _SHOWN]
        ours: dict[str, Any] = min(
            (entries[name] for name in (OURS_EAGER, GRAPHS) if "median" in entries.get(name, {})),
            key=lambda row: row["median"],
            default={},
        )
        mfu, peak = ours.get("mfu"), ours.get("peak_bytes")
        cells += ["-" if mfu is None else f"{mfu:.0%}", "-" if peak is None else f"{peak / 1e9:.1f}"]
        lines.append(f"{title:<30}" + "".join(f"{cell:>14}" for cell in cells))
    titles = [*_SHOWN.values(), "MFU of ours", "GB of ours"]
    head = f"{'median ms':<30}" + "".join(f"{title:>14}" for title in titles)
    return "\n".join([head, *lines]) if lines else ""


def _milliseconds(entry: Row) -> str:
    return f"{entry['median'] * 1e3:,.2f}" if "median" in entry else "-"


def _faults(rows: list[Row]) -> str:
    wrong = [f"{row['id']}: {row['fault']}" for row in rows if row.get("failed")]
    lacking: dict[str, int] = defaultdict(int)
    for row in rows:
        if row.get("fault") and not row.get("failed"):
            lacking[row["fault"]] += 1
    skipped = [f"{why} ({count})" for why, count in lacking.items()]
    return "\n".join(filter(None, [_named("wrong, so without a time", wrong), _named("skipped", skipped)]))


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = [f"  and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return "\n".join([f"{what}: {len(names)}", *(f"  {name}" for name in names[:_NAMED]), *more])
