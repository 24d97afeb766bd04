"""SIGTERM, SIGUSR1 and Ctrl-C: finish the update, save, leave. A second Ctrl-C leaves at once.

SLURM sends SIGTERM before it takes the machines away (or what `--signal` asks for), the launcher passes
SIGTERM on to its ranks. Only a flag is set here; the ranks agree on it at the next update.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Which signal has come, if any."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within, the signals set the yielded flag; afterwards they do what they did before.

    Outside of the main thread, where Python takes no signals, the flag stays 0.
    """
    request = StopRequest()
    before = {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, request)
    except ValueError:
        pass
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signal_name(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name


def leave_signals_to_the_trainer(worker: int = 0) -> None:
    """In a loader's worker: the launcher signals whole process trees, and batches are still wanted.

    SIGTERM from the trainer itself ends the worker: so Python ends what is left when it leaves, and waits.
    The worker also ends with its trainer when that is killed. Where the system is not Linux, signals are
    only ignored.
    """
    if sys.platform != "linux":
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        return
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    threading.Thread(target=_obey, args=(os.getppid(),), name="signals", daemon=True).start()


def _obey(trainer: int) -> None:
    # a handler would not learn who has sent the signal
    while signal.sigwaitinfo(SIGNALS).si_pid != trainer:
        pass
    os._exit(0)
