"""What the guard calls bad, and how often it lets a run go on."""

from __future__ import annotations

import math

import pytest

from lxmert_fast.train.guard import ENOUGH, WINDOW, Guard
from lxmert_fast.train.settings import GuardSettings


def guard(losses: int = 0, **settings: float) -> Guard:
    """After so many losses around 2."""
    found = Guard(GuardSettings.model_validate(settings))
    for number in range(losses):
        found.good(2.0 + 0.1 * (-1) ** number)
    return found


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_always_bad(loss: float) -> None:
    assert guard().judge(loss) == f"loss is {loss}"
    assert guard(ENOUGH, spike=3.0).judge(loss) == f"loss is {loss}"


def test_a_spike_is_so_many_times_the_median() -> None:
    """One great loss among the others moves a mean, not the median."""
    found = guard(2 * ENOUGH, spike=3.0)
    found.losses[7] = 1e6
    assert found.judge(6.29) is None
    assert found.judge(6.31) == "loss is 6.31, over 3 times the usual 2.1"


def test_without_a_factor_nothing_is_a_spike() -> None:
    assert guard(WINDOW).judge(1e30) is None


def test_nothing_is_a_spike_before_there_are_enough_losses() -> None:
    found = guard(ENOUGH - 1, spike=1.5)
    assert found.judge(1e30) is None
    found.good(2.0)
    assert found.judge(1e30) is not None


def test_the_usual_is_of_the_last_losses_alone() -> None:
    found = guard(WINDOW, spike=3.0)
    for _ in range(WINDOW):
        found.good(20.0)
    assert found.judge(50.0) is None
    assert len(found.losses) == WINDOW


def test_bad_updates_are_counted_in_a_row() -> None:
    found = guard(skip=2)
    assert [found.may_skip() for _ in range(3)] == [True, True, False]
    found.good(2.0)
    assert [found.may_skip() for _ in range(3)] == [True, True, False]


def test_going_back_begins_a_new_row_and_is_counted_for_the_whole_run() -> None:
    found = guard(skip=1, roll_backs=2)
    for _ in range(2):
        assert [found.may_skip(), found.may_skip(), found.may_roll_back()] == [True, False, True]
        found.good(2.0)
    assert [found.may_skip(), found.may_skip(), found.may_roll_back()] == [True, False, False]


def test_by_default_the_first_bad_update_ends_the_run() -> None:
    found = guard()
    assert not found.may_skip()
    assert not found.may_roll_back()
