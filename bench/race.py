"""Contenders timed in turns, in one process, so that every ratio is of the same minutes of the same machine.

A round runs each contender once; each round begins with another one, so that none always follows the same
neighbour. Other work on the machine only ever adds time, and unevenly: ratios are of each contender's fastest
round, and rounds are added until a second one confirms it. The median is reported beside it. Values are
compared with the reference's in every round; a contender that is wrong once has no time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lxmert_fast.bench.parity import ParityError, Values, require_finite, require_parity, same_top_answers

#: A second round this near confirms the fastest.
CONFIRMED = 1.1


class Unavailable(Exception):
    """A contender cannot run here; the message says why and is shown in its row."""


class Contender(Protocol):
    """One way of computing a workload."""

    name: str
    tolerance: float
    """Largest relative difference from the reference that counts as equal."""
    random: bool
    """Whether `run` draws dropout, so that only `check` can be compared and `run` must be finite."""

    def prepare(self) -> None:
        """Load, compile, export: all that is done once. Raises `Unavailable`."""

    def run(self) -> Values:
        """The timed call, on the contender's own copy of the batch."""

    def check(self) -> Values:
        """The same call without dropout."""


@dataclass
class Entry:
    """One contender's row."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """One a round; empty where it was not run or not right."""
    prepared: float | None = None
    """Seconds that `prepare` and the first call took."""
    difference: float | None = None
    same_top: float | None = None
    """Share of equal top answers, in inference."""
    fault: str | None = None
    """Why there is no time: what is missing, or which value was wrong."""
    failed: bool = False
    """Whether that is an error, and not something that this machine lacks."""

    def to_json(self) -> dict[str, Any]:
        """What the report reads."""
        row: dict[str, Any] = {"name": self.name, "fault": self.fault, "failed": self.failed}
        if not self.seconds:
            return row
        return row | {
            "seconds": self.seconds,
            "fastest": min(self.seconds),
            "median": statistics.median(self.seconds),
            "prepared": self.prepared,
            "difference": self.difference,
            "same_top": self.same_top,
        }


class Race:
    """Prepares contenders, the first of which is the reference, and times them round by round.

    Args:
        contenders: the reference first.
        say: told about every contender as it is made ready.
    """

    def __init__(self, contenders: Sequence[Contender], say: Callable[[str], None] = print) -> None:
        self.entries = {contender.name: Entry(contender.name) for contender in contenders}
        self.running: list[Contender] = []
        self._turn = 0
        self._wanted: Values = {}
        for contender in contenders:
            self._make_ready(contender, say)

    def _make_ready(self, contender: Contender, say: Callable[[str], None]) -> None:
        entry = self.entries[contender.name]
        began = time.perf_counter()
        try:
            contender.prepare()
            values = contender.check()
        except Unavailable as reason:
            self._drop(contender, str(reason), failed=False)
            say(f"{contender.name}: skipped ({reason})")
            return
        entry.prepared = time.perf_counter() - began
        if not self._wanted:
            self._wanted = {name: tensor.detach().clone() for name, tensor in values.items()}
        if self._compare(contender, values):
            if contender.random:
                contender.run()  # the first call with dropout, which compiled models compile once more
            self.running.append(contender)
            say(f"{contender.name}: ready in {entry.prepared:.1f} s, {entry.difference:.1e} off")
        else:
            say(str(entry.fault))

    def round(self) -> None:
        """Each contender once."""
        order = self.running[self._turn :] + self.running[: self._turn]
        self._turn = (self._turn + 1) % max(1, len(self.running))
        for contender in order:
            began = time.perf_counter()
            values = contender.run()
            seconds = time.perf_counter() - began
            if self._compare(contender, values, drawn=contender.random):
                self.entries[contender.name].seconds.append(seconds)

    @property
    def settled(self) -> bool:
        """Whether every contender has a round that confirms its fastest."""
        timed = [sorted(entry.seconds)[:2] for entry in self.entries.values() if entry.seconds]
        return all(len(best) == 2 and best[1] <= CONFIRMED * best[0] for best in timed)

    def lines(self) -> list[str]:
        """One line a contender: its fastest round and how it compares, or why it has none."""
        lines = []
        base: float | None = None
        for entry in self.entries.values():
            if not entry.seconds:
                lines.append(f"{entry.name:<22} {entry.fault or 'not run'}")
                continue
            fastest = min(entry.seconds)
            base = base or fastest
            lines.append(f"{entry.name:<22} {fastest * 1e3:10,.1f} ms  {base / fastest:5.2f} x")
        return lines

    def _compare(self, contender: Contender, values: Values, *, drawn: bool = False) -> bool:
        entry = self.entries[contender.name]
        if entry.fault:
            return False
        try:
            if drawn:
                require_finite(contender.name, values)
                return True
            found = require_parity(contender.name, values, self._wanted, contender.tolerance)
        except ParityError as error:
            self._drop(contender, str(error), failed=True)
            return False
        entry.difference = max(found, entry.difference or 0.0)
        if "scores" in values:
            entry.same_top = same_top_answers(values["scores"], self._wanted["scores"])
        return True

    def _drop(self, contender: Contender, fault: str, *, failed: bool) -> None:
        entry = self.entries[contender.name]
        entry.fault, entry.failed, entry.seconds = fault, failed, []
        self.running = [other for other in self.running if other is not contender]
