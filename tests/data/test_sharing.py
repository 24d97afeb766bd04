"""Runs keep groups together, lose nothing and favour nobody; chi-square tests at one in a million."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from lxmert_fast.data.batches import EpochBatches
from lxmert_fast.data.sharing import Runs, distinct, stretches
from lxmert_fast.errors import InputError

LEVEL = 1e-6
# Five groups in mixed file order: of one, one, two, five and nine examples.
GROUPS = np.random.default_rng(1).permutation(np.repeat([7, 0, 3, 1, 2], [1, 1, 2, 5, 9]))

groups = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(np.array)
limits = st.none() | st.integers(1, 9)


def blocks(values: np.ndarray) -> int:
    """Stretches of equal values on the circle; values of one kind are one stretch."""
    return max(1, int((values != np.roll(values, 1)).sum()))


@given(groups, limits, st.integers(0, 2**32))
def test_an_order_is_a_permutation_in_runs(groups: np.ndarray, limit: int | None, seed: int) -> None:
    runs = Runs(groups, limit)
    order = runs.shuffled(np.random.default_rng(seed))
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(groups)))
    sizes = np.bincount(groups)
    cuts = -(-sizes // (limit or len(groups)))
    assert blocks(groups[order]) <= cuts.sum()
    if limit is None:
        assert blocks(groups[order]) == len(np.unique(groups))


@given(groups, limits)
def test_file_order_within_groups(groups: np.ndarray, limit: int | None) -> None:
    np.testing.assert_array_equal(Runs(groups, limit).in_order(), np.argsort(groups, kind="stable"))


def test_runs_are_cut_at_the_limit() -> None:
    """Of 9 examples with at most 4 together, two runs are of 4, between runs of another group."""
    runs = Runs(np.repeat([0, 1], [9, 3000]), 4)
    seen = Counter[int]()
    for seed in range(50):
        mine = runs.shuffled(np.random.default_rng(seed)) < 9
        places = np.flatnonzero(mine)
        stretches = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        seen.update(len(stretch) for stretch in stretches)
    assert seen.most_common(1)[0][0] == 4
    assert seen[4] > 80
    assert seen[1] > 40
    assert sum(seen[length] for length in (2, 3, 6, 7)) <= 2


@pytest.mark.parametrize("limit", [None, 1, 4])
def test_every_example_is_as_likely_in_every_batch_and_left_out(limit: int | None) -> None:
    """18 examples, batches of 4, over 6,000 seeds: shares of 4/18 for each batch and 2/18 for none."""
    runs = Runs(GROUPS, limit)
    seeds = 6000
    places = np.zeros((len(GROUPS), 5), int)
    for seed in range(seeds):
        left_out = np.ones(len(GROUPS), bool)
        for key in EpochBatches(len(GROUPS), 4, seed=seed, runs=runs):
            places[key.rows, key.first // 4] += 1
            left_out[key.rows] = False
        places[left_out, 4] += 1
    expected = seeds * np.array([4, 4, 4, 4, 2]) / 18
    assert chisquare(places, expected, axis=1).pvalue.min() > LEVEL


def test_everyone_of_a_group_is_as_likely_the_next() -> None:
    members = np.flatnonzero(GROUPS == 2)
    runs, found = Runs(GROUPS, 4), Counter[int]()
    for seed in range(6000):
        order = runs.shuffled(np.random.default_rng(seed))
        following = order[(np.flatnonzero(order == members[0])[0] + 1) % len(order)]
        if GROUPS[following] == 2:
            found[following] += 1
    assert set(found) == set(members[1:])
    assert chisquare(list(found.values())).pvalue > LEVEL


def test_sentences_of_an_image_meet_in_a_batch() -> None:
    """2,000 images of 1 to 9 sentences, batches of 64: pairs for each image that a batch holds."""
    images = np.repeat(np.arange(2000), 1 + np.arange(2000) % 9)

    def pairs_per_image(runs: Runs | None) -> float:
        keys = list(EpochBatches(len(images), 64, seed=0, runs=runs))
        return 64 * len(keys) / sum(len(np.unique(images[key.rows])) for key in keys)

    assert pairs_per_image(None) < 1.05
    assert 2.8 < pairs_per_image(Runs(images, 4)) < pairs_per_image(Runs(images)) < 5.01


def test_impossible_groups() -> None:
    for wrong in (np.array([0.5]), np.array([[1]])):
        with pytest.raises(InputError, match=r"wanted integers of \(N,\)"):
            Runs(wrong)
    for wrong in (np.array([3, -1]), np.array([1 << 32])):
        with pytest.raises(InputError, match="wanted 0 to"):
            Runs(wrong)
    with pytest.raises(InputError, match="at most 0 examples"):
        Runs(np.array([1]), 0)


@given(groups)
def test_distinct_values_and_which_is_which(values: np.ndarray) -> None:
    found, which = distinct(values)
    assert len(set(found.tolist())) == len(found)
    if which is None:
        np.testing.assert_array_equal(found, values)
    else:
        assert len(found) < len(values)
        assert which.dtype == np.int64
        np.testing.assert_array_equal(found[which], values)


@given(groups, st.integers(0, 5), st.integers(0, 5))
def test_stretches_of_equal_neighbours(groups: np.ndarray, start: int, before: int) -> None:
    first = start + before
    starts, which = stretches(groups, first, start)
    assert starts[0] == start
    if which is None:
        assert (groups[1:] != groups[:-1]).all()
        which = np.arange(len(groups))
    for place in range(1, len(groups)):
        begins = groups[place] != groups[place - 1]
        assert which[place] == which[place - 1] + begins
        assert not begins or starts[which[place]] == first + place
