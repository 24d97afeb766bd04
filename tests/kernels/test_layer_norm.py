"""The end of a sub-layer: backward from its output is backward from its input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.kernels.dropout_add_layer_norm import dropout_add_layer_norm
from lxmert_fast.kernels.dropout_add_layer_norm.reference import _invertible


def arguments(smallest: float) -> list[Tensor]:
    torch.manual_seed(0)
    x, residual = (torch.randn(6, 12, dtype=torch.float64) * 3 + 1 for _ in range(2))
    weight, shift = torch.rand(12, dtype=torch.float64) + 0.5, torch.randn(12, dtype=torch.float64)
    weight[3] = smallest
    return [t.requires_grad_() for t in (x, residual, weight, shift)]


@pytest.mark.parametrize(("smallest", "inverts"), [(-0.9, True), (1e-9, False), (0.0, False)])
def test_gradients(smallest: float, inverts: bool):
    """Also where a weight is too small to divide by: there the input is kept."""
    found, wanted = arguments(smallest), arguments(smallest)
    found[3].data.clamp_(-1, 1)
    wanted[3].data.clamp_(-1, 1)
    assert _invertible(found[0] + found[1], found[2], found[3]) is inverts
    target = torch.randn(6, 12, dtype=torch.float64)
    (dropout_add_layer_norm(*found) * target).sum().backward()
    x, residual, weight, shift = wanted
    (F.layer_norm(x + residual, (12,), weight, shift, 1e-12) * target).sum().backward()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)


def test_gradcheck():
    assert torch.autograd.gradcheck(dropout_add_layer_norm, arguments(0.8))


def test_the_input_is_not_kept():
    """Nothing of the size of a hidden state is kept but the output."""
    x, residual, weight, shift = arguments(0.8)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        y = dropout_add_layer_norm(x, residual, weight, shift)
        large = set(kept) - {t.data_ptr() for t in (weight, shift)}
    assert y.data_ptr() in large
    assert x.data_ptr() not in large
