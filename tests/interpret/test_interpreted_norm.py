"""The LayerNorm kernel, of one stream and of two, as good as eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from drawn import drawing, new_seed, of_rows
from guards import Stand
from standing import randn
from three_runs import assert_as_good_as_eager
from torch import Tensor

from lxmert_fast.kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm, reference
from lxmert_fast.kernels.dropout_add_layer_norm.invertible import invertible

#: Rows of two streams: one each, several programs each, and none of one of them.
SPLITS = ((1, 1), (33, 70), (40, 0), (0, 9))


def parameters(width: int, *, bias: bool, names: str, small: bool = False) -> dict[str, Tensor]:
    """Weights that give the normalised row back, or some that are small beside their shift."""
    weight, shift = randn(width, seed=1, scale=0.1) + 1.5, randn(width, seed=2, scale=0.2).clamp(-1, 1)
    if small:
        weight[::3], shift[::3] = 1e-4, 2.0
        weight[1] = 0.0
    given = {"weight": weight, "shift": shift}
    if bias:
        given["bias"] = randn(width, seed=3)
    return {name + names: x for name, x in given.items()}


def check(
    rows: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    *,
    two: bool = True,
    bias: bool = True,
    p: float = 0.0,
    small: bool = False,
    wide: tuple[str, ...] = (),
    stand: Stand = "contiguous",
) -> None:
    total, seed = sum(rows), new_seed()
    split = rows[0] if two else total
    mask = of_rows(seed, (total, width), p)
    tensors = {"x": randn(total, width), "residual": randn(total, width, seed=5) + 0.5}
    tensors |= parameters(width, bias=bias, names="1", small=small)
    if two:
        tensors |= parameters(width, bias=bias, names="2")
        tensors["weight2"] = tensors["weight2"] * 1.3

    def kernel(x: Tensor, residual: Tensor, weight1: Tensor, shift1: Tensor, **rest: Tensor) -> Tensor:
        assert invertible(weight1, shift1, residual.dtype) is not small
        second = Parameters(rest["weight2"], rest["shift2"], rest.get("bias2")) if two else None
        return dropout_add_layer_norm(
            x, residual, weight1, shift1, bias=rest.get("bias1"), second=second, split=split, dropout_p=p,
            seed=seed,
        )  # fmt: skip

    def formula(x: Tensor, residual: Tensor, **given: Tensor) -> Tensor:
        parts = []
        spans = [slice(None, split), slice(split, None)][: 2 if two else 1]
        with drawing(reference, *[mask[span] for span in spans] if p else []):
            for name, span in zip("12", spans, strict=False):
                own_bias = given.get(f"bias{name}")
                weight, shift = (given[of + name].to(residual.dtype) for of in ("weight", "shift"))
                parts.append(
                    reference.dropout_add_layer_norm(
                        x[span], residual[span], weight, shift, bias=own_bias, dropout_p=p
                    )
                )
        return torch.cat(parts)

    assert_as_good_as_eager(kernel, formula, tensors, dtype, wide=wide, stand=stand)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
def test_streams_and_biases(two: bool, bias: bool, dtype: torch.dtype):
    check((33, 70), 48, dtype, two=two, bias=bias)


@pytest.mark.parametrize("rows", SPLITS, ids=lambda rows: f"N{rows[0]}+{rows[1]}")
def test_rows_of_two_streams(rows: tuple[int, int]):
    check(rows, 80, torch.float32)


@pytest.mark.parametrize("width", [1, 48, 80, 768, 1000])
def test_widths(width: int):
    check((5, 40), width, torch.float32)


def test_the_real_width_in_half_precision():
    check((20, 36), 768, torch.float16, p=0.1)


@pytest.mark.parametrize("two", [False, True], ids=["one", "two"])
def test_dropout(two: bool, dtype: torch.dtype):
    check((33, 70), 48, dtype, two=two, p=0.3)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_a_residual_stream_in_single_precision(p: float, half: torch.dtype):
    """x comes from a product in half precision; so may the parameters, or not."""
    check((9, 20), 80, half, wide=("residual",), p=p)
    own = tuple(f"{of}{i}" for of in ("weight", "shift", "bias") for i in "12")
    check((9, 20), 80, half, wide=("residual", *own), p=p, bias=False)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_weights_small_beside_their_shift(p: float, dtype: torch.dtype):
    """Then the sum is kept for backward; dividing by these weights would lose every digit, or be 0 / 0."""
    check((33, 70), 48, dtype, small=True, p=p)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_tensors_that_are_not_contiguous(stand: Stand):
    check((5, 8), 48, torch.float32, stand=stand, p=0.2)


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
