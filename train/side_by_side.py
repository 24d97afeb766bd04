"""Several training runs, one after the other or a few at a time in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from typing import Any, TypeAlias

import torch

from lxmert_fast.errors import Diverged

from .finetuning import finetune
from .pretraining import pretrain
from .settings import FinetuneSettings, PretrainSettings
from .stop import signal_name, stop_on_signals

Settings: TypeAlias = PretrainSettings | FinetuneSettings
Done: TypeAlias = Callable[[str, dict[str, Any]], None]

#: Seconds between two looks at whether a signal has come.
LOOK = 0.5


def train_all(
    runs: Mapping[str, Settings], jobs: int = 1, done: Done = lambda name, summary: None
) -> str | None:
    """Train every run to its end; a run that diverges does not stop the others.

    Small models keep two cores busier as two single-threaded runs than as one run of two threads, so with
    `jobs` > 1 each process has its share of the cores.

    Args:
        runs: by a name that stands before each line of its metrics.
        jobs: runs at a time; 1 trains in this process.
        done: told of each run that ended, in this process: its name and `fit`'s summary, or {"problem": line}
            of one that diverged.

    Returns:
        The signal that stopped a run, or None. The runs that were under way have a checkpoint then, and the
        rest were not begun.

    Raises:
        InputError: a file that is missing or wrong.
    """
    if jobs == 1 or not runs:
        for name, settings in runs.items():
            summary = _train(name, settings)
            if summary.get("stopped"):
                return summary["stopped"]
            done(name, summary)
        return None
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or jobs) // jobs)
    with stop_on_signals() as request, ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        # no more than there are processes: the pool cannot take back what it has queued
        waiting, due = dict[Future, str](), list(runs.items())
        stopped = None
        try:
            while waiting or (due and not stopped):
                while due and len(waiting) < jobs and not stopped:
                    name, settings = due.pop(0)
                    waiting[pool.submit(_train_aside, name, settings, threads)] = name
                ended, _ = wait(waiting, LOOK, FIRST_COMPLETED)
                if request.number and not stopped:
                    stopped = signal_name(request.number)
                    _stop_children()
                for future in ended:
                    name, summary = waiting.pop(future), future.result()
                    if summary.get("stopped"):
                        stopped = stopped or summary["stopped"]
                    else:
                        done(name, summary)
        except BrokenProcessPool:
            # a signal ends a process at once while it still reads its data
            if not request.number:
                raise
            stopped = signal_name(request.number)
        except BaseException:
            # or the pool would wait until the other runs have ended
            _stop_children()
            raise
        return stopped


def _stop_children() -> None:
    """The runs under way save and end."""
    for child in multiprocessing.active_children():
        child.terminate()


def _train(name: str, settings: Settings) -> dict[str, Any]:
    def report(line: str) -> None:
        print(f"[{name}] {line}", flush=True)

    try:
        if isinstance(settings, PretrainSettings):
            return pretrain(settings, report=report)
        return finetune(settings, report=report)
    except Diverged as error:
        report(str(error))
        return {"problem": str(error)}


def _train_aside(name: str, settings: Settings, threads: int) -> dict[str, Any]:
    """In a process of its own."""
    torch.set_num_threads(threads)
    # two progress bars would write over each other: the lines of metrics say how far each is
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        return _train(name, settings)
