"""Uniform numbers by place, and an example of another image from one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from lxmert_fast.data.draws import Purpose, below, uniforms
from lxmert_fast.data.elsewhere import Elsewhere

LEVEL = 1e-6


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 7), st.sampled_from(Purpose))
def test_a_batch_reads_its_rows_of_the_table(first: int, rows: int, width: int, purpose: Purpose) -> None:
    table = uniforms(3, 1, purpose, 0, (first + rows, width))
    np.testing.assert_array_equal(uniforms(3, 1, purpose, first, (rows, width)), table[first:])
    shaped = uniforms(3, 1, purpose, first, (rows, width, 1))
    np.testing.assert_array_equal(shaped[..., 0], table[first:])


def test_far_places_are_as_good_as_near_ones() -> None:
    """The last of nine million, in the table of the widest rows."""
    far = uniforms(0, 0, Purpose.OBJECTS, 9_000_000, (2000, 36, 3))
    assert kstest(far.ravel(), "uniform").pvalue > LEVEL
    assert not np.isin(far[:1], uniforms(0, 0, Purpose.OBJECTS, 0, (2000, 36, 3))).any()


def test_tables_differ_by_seed_epoch_and_purpose() -> None:
    tables = [
        uniforms(seed, epoch, purpose, 0, (8,)).tobytes()
        for seed in range(4)
        for epoch in range(4)
        for purpose in Purpose
    ]
    assert len(set(tables)) == len(tables)


@pytest.mark.parametrize("limit", [1, 3, 30522, 9_180_000, 2**31 - 1])
def test_integers_stay_below_their_limit(limit: int) -> None:
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    assert below(ends, limit).tolist() == [0, limit - 1]


def test_every_example_of_another_image_is_as_likely() -> None:
    """Groups of 1, 4, 2, 0 and 6 examples in mixed order, from each example."""
    groups = np.random.default_rng(5).permutation(np.repeat([0, 1, 2, 4], [1, 4, 2, 6]))
    elsewhere = Elsewhere(groups)
    rows = np.arange(len(groups)).repeat(20000)
    drawn = elsewhere.draw(rows, np.random.default_rng(6).random(len(rows)))
    assert (groups[drawn] != groups[rows]).all()
    for row in range(len(groups)):
        times = np.bincount(drawn[rows == row], minlength=len(groups))[groups != groups[row]]
        assert chisquare(times).pvalue > LEVEL


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(lambda groups: len(set(groups)) > 1))
def test_the_ends_of_the_unit_interval_are_of_another_image_too(groups: list[int]) -> None:
    of, rows = np.array(groups, np.int32), np.arange(len(groups))
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        drawn = Elsewhere(of).draw(rows, np.full(len(rows), uniform))
        assert (of[drawn] != of[rows]).all()
