"""The random bits against a Philox in Python's integers, whose ten rounds give the published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lxmert_fast.kernels import philox
from lxmert_fast.kernels.philox import Seed

WORD = 2**32


def in_integers(counter: list[int], key: list[int], rounds: int) -> list[int]:
    """Philox 4x32 as the paper writes it: a round takes two products apart, keys grow by Weyl's constants."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            second // WORD ^ c1 ^ k0,
            second % WORD,
            first // WORD ^ c3 ^ k1,
            first % WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) % WORD, (k1 + 0xBB67AE85) % WORD
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("counter", "key", "published"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([WORD - 1] * 4, [WORD - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_integers_give_the_published_numbers(counter: list[int], key: list[int], published: list[int]):
    """Known answers of philox4x32-10 of Random123."""
    assert in_integers(counter, key, 10) == published


def test_ten_rounds_in_torch_give_the_published_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(philox, "ROUNDS", 10)
    found = philox.random_bits(torch.tensor([0]), torch.tensor([0]))
    assert found.item() % WORD == 0x6627E8D5


words = st.integers(-(2**63), 2**63 - 1)


@given(key=words, counter=words)
@settings(max_examples=300, deadline=None)
def test_any_word(key: int, counter: int):
    found = philox.random_bits(torch.tensor([key]), torch.tensor([counter])).item()
    halves = [[x % WORD, (x >> 32) % WORD] for x in (counter, key)]
    assert -(2**31) <= found < 2**31
    assert found % WORD == in_integers([*halves[0], 0, 0], halves[1], 7)[0]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_rate(p: float):
    """Within six standard deviations."""
    kept = philox.keep_mask(Seed(torch.tensor([1234])), 0, (1000, 1000), p)
    dropped = 1 - kept.double().mean().item()
    assert abs(dropped - p) <= 6 * math.sqrt(p * (1 - p) / kept.numel())


@given(p=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_what_is_kept_makes_up_for_what_is_dropped(p: float):
    """The threshold fits 32 bits, and scale times the share of values that are kept is 1."""
    threshold, scale = philox.threshold(p), philox.keep_scale(p)
    assert -(2**31) <= threshold < 2**31
    share = (2**31 - threshold) / WORD
    assert scale * share == pytest.approx(0.0 if p == 1.0 else 1.0)
    assert share == pytest.approx(1 - p, abs=1 / WORD)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


def test_masks_are_independent():
    """Of neighbours, rows, seeds, sites and stretches of counters."""
    shape, least = (400, 500), 6 / math.sqrt(400 * 500)
    value = torch.tensor([2**61 + 99])
    mask = philox.keep_mask(Seed(value, 3), 0, shape, 0.5)
    others = [
        philox.keep_mask(Seed(value, 4), 0, shape, 0.5),
        philox.keep_mask(Seed(value + 1, 3 + 64), 0, shape, 0.5),
        philox.keep_mask(Seed(value + 2**32, 3), 0, shape, 0.5),
        philox.keep_mask(Seed(value, 3), math.prod(shape), shape, 0.5),
        philox.keep_mask(Seed(value, 3), 2**32, shape, 0.5),
    ]
    for other in others:
        assert abs(correlation(mask, other)) < least
    assert abs(correlation(mask[:, 1:], mask[:, :-1])) < least
    assert abs(correlation(mask[1:], mask[:-1])) < least


def test_a_mask_is_the_same_wherever_it_starts():
    seed = Seed(torch.tensor([5]), 1)
    whole = philox.keep_mask(seed, 0, (6, 10), 0.4)
    assert torch.equal(philox.keep_mask(seed, 20, (4, 10), 0.4), whole[2:])


def test_parts_have_sites_of_their_own():
    """A tree of parts, three deep: no two have one site."""
    seed = Seed(torch.tensor([5]))
    seen, level = [seed.site], [seed]
    for _ in range(3):
        level = [part.split(i) for part in level for i in range(12)]
        seen += [part.site for part in level]
    assert len(seen) == len(set(seen))
    assert all(part.value is seed.value for part in level)


def test_a_seed_comes_from_torchs_generator():
    torch.manual_seed(1)
    first = philox.draw_seed(torch.device("cpu")).value
    second = philox.draw_seed(torch.device("cpu")).value
    torch.manual_seed(1)
    assert torch.equal(first, philox.draw_seed(torch.device("cpu")).value)
    assert not torch.equal(first, second)
    assert first.dtype is torch.int64
    assert first.shape == (1,)
