"""A rank that dies takes the others with it, instead of leaving them in a collective for half an hour.

A launcher sees only the processes of its own host, and a pulled plug sends no message. So every rank counts
up a number in a store on rank 0's host, and rank 0 watches the numbers. Nobody's clock is compared with
another's: rank 0 measures, by its own, how long a number has stood still.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import TCPStore

from .ranks import Ranks

EXIT_CODE = 3
BEATS = 6
"""Signs of life in the time after which a rank counts as lost."""
GONE = "gone"


@contextmanager
def watch(ranks: Ranks, patience: float) -> Iterator[None]:
    """Within, a rank that gives no sign of life for `patience` seconds ends this process with exit code 3."""
    if ranks.size == 1:
        yield
        return
    watchdog = Watchdog(ranks, patience)
    try:
        yield
    except BaseException:
        # whoever leaves so is to be missed: the others may wait for it on a GPU, where nobody tells them
        watchdog.stop(goodbye=False)
        raise
    watchdog.stop()


class Watchdog:
    """Beats, and looks at the others' beats (rank 0) or for rank 0's verdict (the others).

    Args:
        ranks: all of them make one, at the same time.
        patience: seconds without a beat.
        give_up: called with a line about who is lost; ends the process.
    """

    def __init__(self, ranks: Ranks, patience: float, give_up: Callable[[str], None] | None = None) -> None:
        self.ranks = ranks
        self.patience = patience
        self.give_up = give_up or _leave
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        wait = timedelta(seconds=patience)
        port = None
        if ranks.first:
            self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=wait)
            port = self._store.port
        port = ranks.from_first(port)
        if not ranks.first:
            self._store = TCPStore(address, port, is_master=False, timeout=wait)
        self._names = ranks.gather(socket.gethostname())
        self._count = 0
        self._goodbye = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._heard = time.monotonic()
        self._thread.start()
        if not ranks.first:
            threading.Thread(target=self._listen, name="watchdog of rank 0", daemon=True).start()

    def stop(self, *, goodbye: bool = True) -> None:
        """Beat no more, and say goodbye, so that nobody misses this rank; rank 0 lets the others go first."""
        self._goodbye = goodbye
        self._stopping.set()
        self._thread.join(self.patience)

    def _run(self) -> None:
        every = self.patience / BEATS
        beats = dict.fromkeys(range(1, self.ranks.size), ("", time.monotonic()))
        try:
            while not self._stopping.wait(every):
                self._beat()
                if self.ranks.first:
                    self._look(beats)
                elif self._store.check(["verdict"]):
                    self.give_up(self._store.get("verdict").decode())
                self._heard = time.monotonic()
            if self._goodbye:
                self._leave_others(set(beats))
        except RuntimeError:
            if not self._stopping.is_set():
                self.give_up(f"rank 0 ({self._names[0]}) is gone: its store does not answer")

    def _listen(self) -> None:
        # a host without power neither answers nor closes: the thread that asks waits until TCP tires of it
        while not self._stopping.wait(self.patience / BEATS):
            silent = time.monotonic() - self._heard
            if silent > self.patience:
                self.give_up(f"rank 0 ({self._names[0]}) has not answered for {silent:.0f} s")
                return

    def _leave_others(self, there: set[int]) -> None:
        self._store.set(f"beat/{self.ranks.rank}", GONE)
        if self.ranks.first:
            # its store goes with it, which to the others is its loss
            until = time.monotonic() + self.patience
            while there and time.monotonic() < until:
                there = {rank for rank in there if self._last_beat(rank) != GONE}
                time.sleep(0.01)

    def _last_beat(self, rank: int) -> str:
        key = f"beat/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"beat/{self.ranks.rank}", str(self._count))

    def _look(self, beats: dict[int, tuple[str, float]]) -> None:
        now = time.monotonic()
        for rank, (last, since) in list(beats.items()):
            beat = self._last_beat(rank)
            if beat != last:
                beats[rank] = beat, now
            elif beat == GONE:
                del beats[rank]
            elif now - since > self.patience:
                verdict = f"rank {rank} ({self._names[rank]}) has not been heard of for {now - since:.0f} s"
                self._store.set("verdict", verdict)
                time.sleep(2 * self.patience / BEATS)  # the others read it before the store goes
                self.give_up(verdict)


def _leave(line: str) -> None:
    print(f"lxmert-fast: {line}; leaving, the last checkpoint is intact", file=sys.stderr, flush=True)
    # no clean-up: the thread that trains may be in a collective that never ends
    os._exit(EXIT_CODE)
