"""What stands between two lines of the log: means over updates, rates, waiting."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest
import torch
from thread_ranks import together

from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.window import Window, memory_gib


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, for the test to move."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_means_and_rates_of_the_updates_since_the_last_line(clock: list[float]) -> None:
    """An update that was left out takes its time, and has no loss."""
    found = Window()
    assert found.mean_losses() == {}
    for losses, tokens in (({"total": 3.0, "qa": 1.0}, 80.0), ({"total": 1.0, "qa": 0.0}, 40.0)):
        found.add({"pairs": 8.0, "tokens": tokens, "flops": 4e12}, 0.5)
        found.add_losses(losses)
    clock[0] += 4.0
    assert found.mean_losses() == {"total": 2.0, "qa": 0.5}
    assert found.rates() == {
        "pairs_per_second": 4.0,
        "tokens_per_second": 30.0,
        "model_tflops_per_second": 2.0,
        "data_wait_share": 0.25,
    }
    assert found.last_loss == 1.0
    found.reset()
    found.add({"pairs": 1.0, "tokens": 1.0}, 0.0)
    found.add({"pairs": 1.0, "tokens": 1.0}, 0.0)
    found.add_losses({"total": 5.0})
    clock[0] += 1.0
    assert found.mean_losses() == {"total": 5.0}
    assert found.rates() == {
        "pairs_per_second": 2.0,
        "tokens_per_second": 2.0,
        "model_tflops_per_second": 0.0,
        "data_wait_share": 0.0,
    }


def test_waiting_is_counted_and_training_is_not(clock: list[float]) -> None:
    def slow() -> Any:
        for batch in range(3):
            clock[0] += 2.0
            yield batch

    found, seen = Window(), []
    for batch in found.timed(slow()):
        seen.append(batch)
        clock[0] += 50.0
    assert seen == [0, 1, 2]
    assert found.waited == 6.0


def test_memory_is_the_most_of_any_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_gib(Ranks())["host"] == pytest.approx(psutil.Process().memory_info().rss / 2**30, rel=0.1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**31)

    def one(ranks: Ranks) -> dict[str, float]:
        gather = ranks.gather
        ranks.gather = lambda here: gather({  # type: ignore[method-assign]
            name: value + ranks.rank * 2**30 for name, value in (here | {"host": 0}).items()
        })  # fmt: skip
        return memory_gib(ranks)

    assert together(3, one) == [{"host": 2.0, "gpu": 4.0}] * 3
