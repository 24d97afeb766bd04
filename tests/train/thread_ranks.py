"""Ranks that are threads of one process: what they tell each other, without a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lxmert_fast.train.ranks import Ranks

T = TypeVar("T")


class Table:
    """Where they put down what they say."""

    def __init__(self, size: int, patience: float) -> None:
        self.said: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=patience)


class ThreadRanks(Ranks):
    """One of them; `all_or_none` is the real one."""

    def __init__(self, rank: int, size: int, table: Table) -> None:
        super().__init__(rank, size, rank)
        self._table = table

    def gather(self, value: Any) -> list[Any]:
        self._table.said[self.rank] = value
        self._table.barrier.wait()
        found = list(self._table.said)
        self._table.barrier.wait()
        return found

    def total(self, values: Sequence[float]) -> list[float]:
        return [sum(column) for column in zip(*self.gather(list(values)), strict=True)]

    def from_first(self, value: Any) -> Any:
        return self.gather(value)[0]

    def barrier(self) -> None:
        self.gather(None)


def together(size: int, call: Callable[[Ranks], T], patience: float = 20.0) -> list[T]:
    """`call(ranks)` on so many of them at once; what each returned, or the first error of any."""
    table = Table(size, patience)
    with ThreadPoolExecutor(size) as pool:
        started = [pool.submit(call, ThreadRanks(rank, size, table)) for rank in range(size)]
    return [one.result() for one in started]
