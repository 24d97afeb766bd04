"""The GELU kernel and the product after it, as good as eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from guards import Stand
from operations import of_gelu, of_gelu_linear
from standing import randn
from three_runs import assert_as_good_as_eager as check

from lxmert_fast.kernels.bias_gelu import op


@pytest.mark.parametrize("biases", [0, 1, 2])
def test_streams_and_biases(biases: int, dtype: torch.dtype):
    check(of_gelu((33, 70), 48, biases), dtype)


@pytest.mark.parametrize(
    "rows", [(1, 1), (65, 33), (40, 0), (0, 9)], ids=lambda rows: f"N{rows[0]}+{rows[1]}"
)
def test_rows_of_two_streams(rows: tuple[int, int]):
    check(of_gelu(rows, 80, 2), torch.float32)


@pytest.mark.parametrize("width", [1, 80, 256, 257, 3072])
def test_widths(width: int):
    """Of less than a tile, of one, and of several."""
    check(of_gelu((3, 20), width, 2), torch.float32)


def test_a_bias_in_single_precision(dtype: torch.dtype):
    check(of_gelu((9, 20), 80, 2), dtype, wide=("bias1", "bias2"))


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_tensors_that_are_not_contiguous(stand: Stand):
    check(of_gelu((5, 8), 48, 2), torch.float32, stand=stand)


@pytest.mark.parametrize("biases", [0, 1, 2])
def test_backward_gives_the_output_again(biases: int, dtype: torch.dtype):
    """To the bit, if it is wanted."""
    x, dy = (randn(20, 300, seed=i).to(dtype) for i in (1, 2))
    bias = [randn(300, seed=3 + i).to(dtype) for i in range(biases)]
    first, second = [*bias, None, None][:2]
    split = 7 if biases == 2 else 20
    dx, y, dbias = op.backward(dy, x, first, second, split, True)
    assert torch.equal(y, op.bias_gelu(x, first, second, split))
    without = op.backward(dy, x, first, second, split, False)
    assert without[1].numel() == 0
    assert torch.equal(dx, without[0])
    assert torch.equal(dbias, without[2])


@pytest.mark.parametrize("rows", [(33, 20), (12, 0), (1, 1)], ids=lambda rows: f"N{rows[0]}+{rows[1]}")
@pytest.mark.parametrize("streams", [1, 2])
def test_the_product_after_it(rows: tuple[int, int], streams: int, product_dtype: torch.dtype):
    check(of_gelu_linear(rows, 112, 48, streams), product_dtype)


def test_no_rows_give_gradients_of_zero():
    x = torch.zeros(0, 80, requires_grad=True)
    biases = [torch.ones(80, requires_grad=True) for _ in range(2)]
    found = op.bias_gelu(x, *biases, 0)
    found.sum().backward()
    assert found.shape == x.grad.shape == (0, 80)
    for bias in biases:
        assert torch.equal(bias.grad, torch.zeros(80))
