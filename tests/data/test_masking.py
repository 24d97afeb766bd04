"""Rates of what is hidden. Bounds are binomial at one in a million, seeds are fixed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare
from small_data import within

from lxmert_fast.data.masking import IGNORE, OBJECT_DRAWS, WORD_DRAWS, mask_objects, mask_words

MASK, VOCABULARY = 4, 1000


def for_words(ids: np.ndarray) -> np.ndarray:
    return np.random.default_rng(7).random((*ids.shape, WORD_DRAWS))


def for_objects(images: int, objects: int) -> np.ndarray:
    return np.random.default_rng(8).random((images, objects, OBJECT_DRAWS))


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_word_rates(rate: float) -> None:
    rng = np.random.default_rng(1)
    ids = rng.integers(5, VOCABULARY, (4000, 20))
    eligible = rng.random(ids.shape) < 0.7
    masked, labels = mask_words(ids, eligible, for_words(ids), rate=rate, mask_id=MASK, vocab_size=VOCABULARY)
    chosen = labels != IGNORE
    assert not chosen[~eligible].any()
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])

    n = int(chosen.sum())
    assert within(n, int(eligible.sum()), rate)
    # A random word is [MASK] or the word itself once in VOCABULARY.
    blanked = int((masked[chosen] == MASK).sum())
    kept = int((masked[chosen] == ids[chosen]).sum())
    assert within(blanked, n, 0.8 + 0.1 / VOCABULARY)
    assert within(kept, n, 0.1 + 0.1 / VOCABULARY)
    assert within(n - blanked - kept, n, 0.1 * (1 - 2 / VOCABULARY))
    # No retry and no minimum: sentences are left whole as often as chance has it.
    whole = ~chosen.any(1)
    expected = (1 - rate) ** eligible.sum(1)
    assert abs(whole.sum() - expected.sum()) <= 4.9 * np.sqrt((expected * (1 - expected)).sum()) + 0.5


def test_random_words_are_uniform_over_the_whole_vocabulary() -> None:
    ids = np.full((20000, 20), -7)
    masked, labels = mask_words(
        ids, np.ones(ids.shape, bool), for_words(ids), rate=0.9, mask_id=-1, vocab_size=50
    )
    words = masked[(labels != IGNORE) & (masked >= 0)]
    assert within(len(words), ids.size, 0.09)
    assert chisquare(np.bincount(words, minlength=50)).pvalue > 1e-6


def test_word_positions_are_independent() -> None:
    ids = np.full((50000, 2), 9)
    _, labels = mask_words(
        ids, np.ones(ids.shape, bool), for_words(ids), rate=0.15, mask_id=MASK, vocab_size=10
    )
    assert within(int((labels != IGNORE).all(1).sum()), 50000, 0.15**2)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_extreme_rates(rate: float) -> None:
    ids = np.full((30, 20), 9)
    _, labels = mask_words(ids, np.ones(ids.shape, bool), for_words(ids), rate=rate, mask_id=4, vocab_size=10)
    assert (labels != IGNORE).all() == bool(rate)
    hidden = mask_objects(
        np.full(30, 7),
        for_objects(30, 7),
        rate=rate,
        random_features=lambda uniform: np.zeros((len(uniform), 3)),
    )
    assert hidden.chosen.all() == hidden.chosen.any() == bool(rate)


def test_object_rates() -> None:
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 37, 5000)
    features = rng.uniform(1, 2, (5000, 36, 2)).astype(np.float16)
    before = features.copy()
    hidden = mask_objects(
        counts,
        for_objects(5000, 36),
        rate=0.15,
        random_features=lambda uniform: np.full((len(uniform), 2), 7, np.float16),
    )
    masked = hidden.hide(features)
    np.testing.assert_array_equal(features, before)
    assert masked.dtype == np.float16

    real = np.arange(36) < counts[:, None]
    assert not hidden.chosen[~real].any()
    n = int(hidden.chosen.sum())
    assert within(n, int(real.sum()), 0.15)
    zero, random = (masked == 0).all(2), (masked == 7).all(2)
    kept = (masked == features).all(2)
    assert (zero | random)[~hidden.chosen].sum() == 0
    assert kept[~hidden.chosen].all()
    for found, rate in ((zero, 0.8), (random, 0.1), (kept & hidden.chosen, 0.1)):
        assert within(int(found.sum()), n, rate)


def test_random_features_arrive_in_order_with_their_own_draws() -> None:
    draws, asked = for_objects(40, 36), list[np.ndarray]()

    def numbered(uniform: np.ndarray) -> np.ndarray:
        asked.append(uniform)
        return np.arange(1, len(uniform) + 1, dtype=np.float32)[:, None]

    hidden = mask_objects(np.full(40, 36), draws, rate=0.5, random_features=numbered)
    masked = hidden.hide(np.full((40, 36, 1), -1, np.float32))
    (uniform,) = asked
    np.testing.assert_array_equal(uniform, draws[hidden.random, 1:])
    np.testing.assert_array_equal(masked[hidden.random][:, 0], np.arange(1, len(uniform) + 1))
