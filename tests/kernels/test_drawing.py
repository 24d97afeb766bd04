"""Dropout: its rate, its scale, its gradient, and that PyTorch's generator governs it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lxmert_fast.kernels.dropout import dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_rate_and_scale(p: float):
    """Within six standard deviations of a million draws; what is kept has the expectation of all."""
    x = torch.ones(1000, 1000)
    y = dropout(x, p)
    zeros = (y == 0).float().mean().item()
    assert abs(zeros - p) < 6 * (p * (1 - p) / x.numel()) ** 0.5
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0)


def test_every_place_and_the_end_of_a_word_are_drawn_alike():
    """Four elements share a 64-bit draw: none of the four is favoured, neighbours are independent."""
    torch.manual_seed(0)
    kept = (dropout(torch.ones(200_000, 4), 0.5) != 0).float()
    assert (kept.mean(0) - 0.5).abs().max() < 6 * 0.5 / 200_000**0.5
    both = (kept[:, :3] * kept[:, 1:]).mean(0)
    assert (both - 0.25).abs().max() < 6 * (0.25 * 0.75 / 200_000) ** 0.5


@given(shape=st.lists(st.integers(0, 7), min_size=1, max_size=3), p=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_a_seed_repeats_it_and_the_gradient_follows_the_mask(shape: list[int], p: float, seed: int):
    x = torch.randn(shape, requires_grad=True)
    torch.manual_seed(seed)
    first = dropout(x, p)
    torch.manual_seed(seed)
    assert torch.equal(dropout(x, p), first)
    assert first.shape == x.shape
    first.sum().backward()
    assert torch.equal((x.grad * x).detach(), first.detach())


@pytest.mark.parametrize(("p", "zeros"), [(2.0**-30, 0), (1 - 2.0**-30, 1000), (0.0, 0), (1.0, 1000)])
def test_rates_that_sixteen_bits_cannot_tell_from_none_or_all(p: float, zeros: int):
    torch.manual_seed(0)
    assert int((dropout(torch.ones(1000), p) == 0).sum()) == zeros


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype):
    y = dropout(torch.ones(100, 100, dtype=dtype), 0.1)
    assert y.dtype is dtype
    assert 0 < (y == 0).float().mean() < 0.2
