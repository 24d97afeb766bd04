"""The LayerNorm kernel, of one stream and of two, as good as eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from drawn import new_seed
from guards import Stand
from operations import of_norm
from standing import randn
from three_runs import assert_as_good_as_eager as check

from lxmert_fast.kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm, reference

#: Rows of two streams: one each, several programs each, and none of one of them.
SPLITS = ((1, 1), (33, 70), (40, 0), (0, 9))


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
def test_streams_and_biases(two: bool, bias: bool, dtype: torch.dtype):
    check(of_norm((33, 70), 48, two=two, bias=bias), dtype)


@pytest.mark.parametrize("rows", SPLITS, ids=lambda rows: f"N{rows[0]}+{rows[1]}")
def test_rows_of_two_streams(rows: tuple[int, int]):
    check(of_norm(rows, 80), torch.float32)


@pytest.mark.parametrize("width", [1, 48, 80, 768, 1000])
def test_widths(width: int):
    check(of_norm((5, 40), width), torch.float32)


def test_more_parts_of_a_sum_than_are_added_at_once():
    """Two streams of more than sixteen programs each."""
    check(of_norm((600, 530), 16), torch.float32)


def test_the_real_width_in_half_precision():
    check(of_norm((20, 36), 768, p=0.1), torch.float16)


@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
def test_dropout(two: bool, dtype: torch.dtype):
    check(of_norm((33, 70), 48, two=two, p=0.3), dtype)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_a_residual_stream_in_single_precision(p: float, half: torch.dtype):
    """x comes from a product in half precision; so may the parameters, or not."""
    check(of_norm((9, 20), 80, p=p), half, wide=("residual",))
    own = tuple(f"{of}{i}" for of in ("weight", "shift", "bias") for i in "12")
    check(of_norm((9, 20), 80, p=p, bias=False), half, wide=("residual", *own))


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_weights_small_beside_their_shift(p: float, dtype: torch.dtype):
    """Then the sum is kept for backward; dividing by these weights would lose every digit, or be 0 / 0."""
    check(of_norm((33, 70), 48, small=True, p=p), dtype)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_tensors_that_are_not_contiguous(stand: Stand):
    check(of_norm((5, 8), 48, p=0.2), torch.float32, stand=stand)


def test_rows_of_three_dimensions():
    x, residual = randn(2, 3, 48).float(), randn(2, 3, 48, seed=1).float()
    weight, shift = torch.ones(48), torch.zeros(48)
    found = dropout_add_layer_norm(x, residual, weight, shift)
    torch.testing.assert_close(found, reference.dropout_add_layer_norm(x, residual, weight, shift))


def test_every_element_is_dropped():
    """p = 1 leaves the residual."""
    x, residual = randn(6, 48).float().requires_grad_(), randn(6, 48, seed=1).float().requires_grad_()
    weight, shift = torch.ones(48), torch.zeros(48)
    found = dropout_add_layer_norm(x, residual, weight, shift, dropout_p=1.0, seed=new_seed())
    torch.testing.assert_close(found, torch.nn.functional.layer_norm(residual, (48,), eps=1e-12))
    found.square().mul(torch.arange(48.0)).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert residual.grad.abs().max() > 0


def test_no_rows_give_gradients_of_zero():
    x, residual = (torch.zeros(0, 48, requires_grad=True) for _ in range(2))
    weight, shift, bias = (torch.ones(48, requires_grad=True) for _ in range(3))
    second = Parameters(*(torch.ones(48, requires_grad=True) for _ in range(3)))
    found = dropout_add_layer_norm(x, residual, weight, shift, bias=bias, second=second, split=0)
    found.sum().backward()
    assert found.shape == x.grad.shape == residual.grad.shape == (0, 48)
    for parameter in (weight, shift, bias, *second):
        assert torch.equal(parameter.grad, torch.zeros(48))


def test_only_the_second_stream_is_trained():
    """The sum is kept for its small weights, although nothing else has a gradient."""
    x, residual = randn(6, 48).float(), randn(6, 48, seed=1).float()
    first = Parameters(torch.ones(48), torch.zeros(48))
    weight = torch.full((48,), 1e-7).requires_grad_()
    shift = torch.full((48,), 3.0).requires_grad_()
    found = dropout_add_layer_norm(
        x, residual, first.weight, first.shift, second=Parameters(weight, shift), split=2
    )
    found.sum().backward()
    normal = torch.nn.functional.layer_norm((x + residual)[2:], (48,), eps=1e-12)
    torch.testing.assert_close(weight.grad, normal.sum(0), rtol=1e-4, atol=1e-5)
