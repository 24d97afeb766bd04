"""Who is lost is named within the patience, who says goodbye is not missed; ranks are threads here."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from thread_ranks import together

from lxmert_fast.train import watchdog
from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.watchdog import Watchdog, watch

# a watchdog that gives up ends the process; here, its thread
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

PATIENCE = 0.6
"""Seconds; a loaded machine may hold a thread up for a beat of it or two, not for all six."""
LONG = 20.0


class Lost(list[tuple[int, str]]):
    """(rank, line) of every rank that gave up."""

    def by(self, rank: int) -> Callable[[str], None]:
        def give_up(line: str) -> None:
            self.append((rank, line))
            raise SystemExit  # the thread ends, as the process would

        return give_up

    def wait(self, *ranks: int) -> None:
        """Until all of these have given up."""
        until = time.monotonic() + LONG
        while not set(ranks) <= {rank for rank, _ in self}:
            assert time.monotonic() < until, f"only {self} gave up in {LONG} s"
            time.sleep(0.01)

    def lines(self, rank: int) -> list[str]:
        return [line for number, line in self if number == rank]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


@pytest.fixture
def lost() -> Lost:
    return Lost()


def test_a_silent_rank_is_named_to_all_the_others(lost: Lost) -> None:
    def one(ranks: Ranks) -> None:
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        if ranks.rank == 2:
            dog.stop(goodbye=False)
        lost.wait(0, 1)
        dog.stop(goodbye=False)

    together(3, one, LONG)
    assert {rank for rank, _ in lost} == {0, 1}
    assert {line for _, line in lost} == {f"rank 2 ({socket.gethostname()}) has not been heard of for 1 s"}


def test_goodbye_is_not_a_loss(lost: Lost) -> None:
    """Rank 1 leaves long before the others, rank 0 before rank 2: nobody is missed."""

    def one(ranks: Ranks) -> None:
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        time.sleep({0: 1.6, 1: 0.0, 2: 2.0}[ranks.rank] * PATIENCE)
        dog.stop()

    together(3, one, LONG)
    assert lost == []


def test_an_error_of_one_rank_alone_is_a_loss(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with a traceback while the others wait in a collective on their GPUs."""
    monkeypatch.setattr(watchdog, "_leave", lost.by(0))

    def one(ranks: Ranks) -> None:
        with watch(ranks, PATIENCE):
            if ranks.rank == 1:
                raise KeyError
            lost.wait(0)

    with pytest.raises(KeyError):
        together(2, one, LONG)
    assert lost.lines(0) == [f"rank 1 ({socket.gethostname()}) has not been heard of for 1 s"]


def test_a_slow_rank_is_not_lost(lost: Lost) -> None:
    """Its training thread hangs for several times the patience; the beats go on."""

    def one(ranks: Ranks) -> None:
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        time.sleep(2.5 * PATIENCE)
        dog.stop()

    together(2, one, LONG)
    assert lost == []


def test_clocks_are_never_compared(lost: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the time of day finds another century, and the ranks do not agree on anything."""
    days = itertools.cycle([0.0, 1e9, -1e9, 4e9])
    monkeypatch.setattr(watchdog.time, "time", lambda: next(days))

    def one(ranks: Ranks) -> None:
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        time.sleep(1.5 * PATIENCE)
        dog.stop()

    together(2, one, LONG)
    assert lost == []


def relay(port: int, cut: threading.Event) -> int:
    """A port that leads to another one; once cut, nothing comes through and nobody is told."""
    server = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if not cut.is_set():
                    target.sendall(content)

    def connect() -> None:
        here, _ = server.accept()
        there = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(here, there), daemon=True).start()
        pump(there, here)

    threading.Thread(target=connect, daemon=True).start()
    return server.getsockname()[1]


def test_the_end_of_rank_0_is_told(lost: Lost) -> None:
    """The end of a process closes its connections."""

    def one(ranks: Ranks) -> None:
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        ranks.barrier()
        if ranks.first:
            dog.stop(goodbye=False)
            del dog._store
        lost.wait(1)

    together(2, one, LONG)
    assert lost == [(1, f"rank 0 ({socket.gethostname()}) is gone: its store does not answer")]


def test_the_silence_of_rank_0_is_told(lost: Lost) -> None:
    """A host whose plug is pulled closes nothing."""
    cut = threading.Event()

    def one(ranks: Ranks) -> None:
        from_first = ranks.from_first

        def through_the_relay(port: int | None) -> int:
            found = from_first(port)
            return found if ranks.first else relay(found, cut)

        ranks.from_first = through_the_relay  # type: ignore[method-assign]
        dog = Watchdog(ranks, PATIENCE, lost.by(ranks.rank))
        ranks.barrier()
        cut.set()
        lost.wait(0, 1)
        dog.stop(goodbye=False)

    together(2, one, LONG)
    assert lost.lines(1) == [f"rank 0 ({socket.gethostname()}) has not answered for 1 s"]


def test_one_rank_watches_nobody() -> None:
    before = threading.active_count()
    with watch(Ranks(), PATIENCE):
        assert threading.active_count() == before


def test_it_leaves_with_a_line_and_the_code_that_is_started_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    watchdog._leave("rank 1 (b) is gone")
    assert codes == [3]
    assert (
        capsys.readouterr().err == "lxmert-fast: rank 1 (b) is gone; leaving, the last checkpoint is intact\n"
    )
