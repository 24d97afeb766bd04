"""Runs a few at a time: which are begun, what a signal and a wrong file leave, in threads for processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lxmert_fast.errors import InputError
from lxmert_fast.train import side_by_side
from lxmert_fast.train.side_by_side import train_all

RUNS: dict[str, Any] = dict.fromkeys("abcd")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of runs in the order in which they began; "b" waits to be stopped, others end at once."""
    names: list[str] = []
    told = threading.Event()

    def train(name: str, settings: Any, threads: int) -> dict[str, Any]:
        names.append(name)
        if name == "b" and settings == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
            assert told.wait(20)
            return {"stopped": "SIGTERM"}
        if settings == "wrong":
            raise InputError("no such file")
        time.sleep(0.01)
        return {"stopped": None, "threads": threads}

    def pool(jobs: int, mp_context: Any) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(jobs)

    monkeypatch.setattr(side_by_side, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(side_by_side, "_train_aside", train)
    monkeypatch.setattr(side_by_side, "_stop_children", told.set)
    monkeypatch.setattr(side_by_side, "LOOK", 0.02)
    return names


def test_all_end_and_are_told_of(begun: list[str]) -> None:
    done: dict[str, Any] = {}
    assert train_all(RUNS, 2, done.__setitem__) is None
    assert sorted(begun) == sorted(done) == [*RUNS]
    assert {summary["threads"] for summary in done.values()} == {max(1, (os.cpu_count() or 2) // 2)}


def test_a_signal_stops_what_runs_and_begins_nothing(begun: list[str]) -> None:
    done: dict[str, Any] = {}
    assert train_all({"b": "signal", **dict.fromkeys("wxyz")}, 2, done.__setitem__) == "SIGTERM"
    assert "b" in begun
    assert "b" not in done
    assert len(begun) < 5
    assert sorted([*done, "b"]) == sorted(begun)


def test_a_wrong_file_stops_the_others(begun: list[str]) -> None:
    with pytest.raises(InputError, match="no such file"):
        train_all({"a": "wrong", **dict.fromkeys("wxyz")}, 2)
    assert len(begun) < 5


def test_nothing_to_do_starts_no_process(begun: list[str]) -> None:
    assert train_all({}, 2) is None
    assert begun == []
