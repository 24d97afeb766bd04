"""Progress bars on standard error, so that standard output stays for results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s", style="progress.data.speed")


class Advance(Protocol):
    """Called with the work done since the last call and, if there is news, a few words about it."""

    def __call__(self, amount: int, note: str | None = None) -> None: ...


@contextmanager
def progress(
    description: str,
    total: float | None = None,
    unit: str = "images",
    done: int = 0,
    *,
    show: bool = True,
) -> Iterator[Advance]:
    """Shows a bar with count, rate, time passed and time left; yields `advance(n)`, told of work done.

    Args:
        description: what is going on, one or two words. total: the whole work, None if unknown.
        unit: plural name of what is counted; "bytes" are shown in kB, MB and GB.
        done: work that an earlier run has done already.
        show: False counts in silence, as all processes but one should.
    """
    in_bytes = unit == "bytes"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if in_bytes else MofNCompleteColumn(),
        TransferSpeedColumn() if in_bytes else _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not show) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")

        def advance(amount: int, note: str | None = None) -> None:
            if note is not None:
                bar.update(task, note=note)
            bar.update(task, advance=amount)

        yield advance
