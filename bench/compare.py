"""What moved between two result files.

Times of two runs differ with the machine's mood, so a contender has moved when its speed against Hugging
Face's eager model *of its own run* has; counts move when they are not the same number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lxmert_fast.bench.report import REFERENCE, Report

_COUNTED = ("flops", "operations", "launches", "bytes_moved", "saved_bytes", "peak_bytes")


@dataclass(frozen=True)
class Change:
    """One figure that is not what it was."""

    what: str
    old: float | None
    """None where there was none."""
    new: float | None
    better: bool
    """Less of a cost, more of a speed, or there where it was not."""

    def line(self) -> str:
        """One line for people."""
        verdict = "better" if self.better else "worse"
        if self.old is None or self.new is None:
            old, new = (f"{value:,.4g}" if value is not None else "none" for value in (self.old, self.new))
            return f"{self.what}: {old} -> {new}"
        change = f"{self.new / self.old - 1:+.1%}" if self.old else "from nothing"
        return f"{self.what}: {self.old:,.4g} -> {self.new:,.4g} ({change}, {verdict})"


def compare(old: Report, new: Report, threshold: float = 0.05) -> list[Change]:
    """Figures that moved by more than `threshold` (counts: at all), in the order of the new file, then those
    that are gone."""
    before, after = _figures(old), _figures(new)
    changes = []
    for what in [*after, *(what for what in before if what not in after)]:
        was, now = before.get(what), after.get(what)
        if was is None or now is None:
            changes.append(Change(what, was, now, better=was is None))
            continue
        counted = what.endswith(_COUNTED)
        allowed = 0.0 if counted else threshold
        if abs(now - was) > allowed * abs(was):
            changes.append(Change(what, was, now, better=(now < was) == counted))
    return changes


def warnings(old: Report, new: Report) -> list[str]:
    """What makes the two files hard to compare: another machine, threads or versions."""
    keys: dict[str, Any] = {"processor": "processor", "threads": "threads", "versions": "versions"}
    return [
        f"{name} differs: {old.machine[key]} and {new.machine[key]}"
        for name, key in keys.items()
        if old.machine.get(key) != new.machine.get(key)
    ]


def _figures(report: Report) -> dict[str, float]:
    """Every figure by name; all but counts are better when larger."""
    figures: dict[str, float] = {}
    for race in report.races:
        for name in race.entries:
            if name == REFERENCE:
                continue
            if ratio := race.ratio(name, REFERENCE):
                figures[f"{race.title}: {name}, times as fast as {REFERENCE}"] = ratio
        for name, counts in race.counts.items():
            # launches are missing from older files
            figures |= {f"{race.title}: {name}, {key}": counts[key] for key in _COUNTED if key in counts}
    for name, row in report.data.items():
        figures[f"{name}: examples a second"] = row["examples_a_second"]
    return figures | {name.replace("_", " "): value for name, value in report.loader.items()}
