"""Shares make the mean over the update, whatever it is cut into."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_ranks import together

from lxmert_fast.train.ranks import Ranks
from lxmert_fast.train.shares import shares

NAMES = ("mask_lm", "qa")
VALUES = st.floats(-100, 100, allow_nan=False, width=32)
PASS = st.fixed_dictionaries(dict.fromkeys(NAMES, st.lists(VALUES, max_size=4)))


@st.composite
def cuts(draw: st.DrawFn) -> list[list[dict[str, list[float]]]]:
    """By rank and pass: what each loss is a mean over; often nothing at all."""
    ranks, passes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    return [[draw(PASS) for _ in range(passes)] for _ in range(ranks)]


def engine_mean(cut: list[list[dict[str, list[float]]]], padding: int) -> tuple[list[dict[str, float]], list]:
    """What the engine makes of the passes' losses, each divided by its count and `padding` more."""

    def one(ranks: Ranks) -> tuple[list[dict[str, float]], dict[str, float]]:
        mine = cut[ranks.rank]
        counts = [{name: float(len(found[name])) for name in NAMES} for found in mine]
        divisors = [{name: n + padding for name, n in found.items()} for found in counts]
        each, totals = shares(counts, divisors, ranks)
        losses = [
            {name: share[name] * sum(found[name]) / max(divisor[name], 1.0) for name in NAMES}
            for share, found, divisor in zip(each, mine, divisors, strict=True)
        ]
        return losses, totals

    told = together(len(cut), one)
    return [loss for losses, _ in told for loss in losses], [totals for _, totals in told]


@given(cut=cuts(), padding=st.sampled_from([0, 3]))
@settings(max_examples=60, deadline=None)
def test_the_engines_average_is_the_mean_over_the_update(cut: list, padding: int) -> None:
    losses, totals = engine_mean(cut, padding)
    assert all(found == totals[0] for found in totals)
    for name in NAMES:
        everything = [value for rank in cut for part in rank for value in part[name]]
        wanted = sum(everything) / len(everything) if everything else 0.0
        found = sum(loss[name] for loss in losses) / len(losses)
        # fp64 over at most 48 numbers of up to 100: each operation rounds by 2^-53
        assert found == pytest.approx(wanted, rel=1e-12, abs=1e-11)
        assert totals[0][name] == len(everything)
