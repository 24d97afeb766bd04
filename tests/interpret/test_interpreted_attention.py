"""The attention kernel in every use, as good as eager PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guards import Stand
from operations import SHARING, Case, of_attention, of_cross_attention, of_self_attention
from standing import CPU, KINDS, LONG, ONE, SHAPES, SMALL, WIDE, Shape, lengths, randn
from three_runs import assert_as_good_as_eager as check
from torch import Tensor

from lxmert_fast.kernels.layout import dense, packed
from lxmert_fast.kernels.self_attention import attention, reference, self_attention

P = 0.3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_self_attention(shape: Shape, product_dtype: torch.dtype):
    check(of_self_attention(shape, "packed"), product_dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_self_attention_of_every_kind_of_sequence(kind: str, product_dtype: torch.dtype):
    check(of_self_attention(SMALL, kind), product_dtype)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_self_attention_of_tensors_that_are_not_contiguous(stand: Stand, product_dtype: torch.dtype):
    check(of_self_attention(SMALL, "packed"), product_dtype, stand=stand)


@pytest.mark.parametrize("shape", [SMALL, LONG], ids=str)
@pytest.mark.parametrize("kind", ["packed", "masked"])
def test_self_attention_with_dropout(shape: Shape, kind: str, product_dtype: torch.dtype):
    check(of_self_attention(shape, kind, p=P), product_dtype)


def test_texts_of_every_length():
    """1 to 64 words, in one launch."""
    keep = torch.arange(64) <= torch.arange(64)[:, None]
    layout = packed(keep, None, torch.float32, kept=int(keep.sum()), longest=64)

    def formula(qkv: Tensor) -> Tensor:
        return reference.self_attention(qkv, replace(layout, mask=layout.mask.to(qkv.dtype)), 1)[0]

    tensors = {"qkv": randn(64 * 65 // 2, 24)}
    check(Case(lambda qkv: self_attention(qkv, layout, 1)[0], formula, tensors), torch.float32)


def test_a_width_of_as_many_keys_as_fit():
    check(of_self_attention(Shape(1, 1, 128, 24, 2), "dense"), torch.float32)


def test_a_mask_that_closes_all_keys_is_uniform_attention(product_dtype: torch.dtype):
    """Hugging Face's rule for it, also where a score would overflow fp16 beside the smallest value."""
    batch, width, hidden = 2, 9, 32
    bias = torch.full((batch, width), torch.finfo(product_dtype).min, dtype=product_dtype)
    qkv = randn(batch * width, 3 * hidden, scale=4.0).to(product_dtype)
    found, _ = self_attention(qkv, dense(batch, width, bias, CPU), 2)
    value = qkv[:, 2 * hidden :].double().view(batch, width, hidden)
    wanted = value.mean(1, keepdim=True).expand(-1, width, -1).flatten(0, 1)
    eps = torch.finfo(product_dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=8 * eps * value.abs().max().item())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_attention(shape: Shape, product_dtype: torch.dtype):
    check(of_cross_attention(shape, "own"), product_dtype)


@pytest.mark.parametrize("sharing", SHARING)
def test_cross_attention_of_shared_texts_and_images(sharing: str, product_dtype: torch.dtype):
    check(of_cross_attention(SMALL, sharing), product_dtype)


@pytest.mark.parametrize(
    "kinds", [("masked", "dense"), ("dense", "masked"), ("packed, masked", "packed"), ("packed", "masked")]
)
def test_cross_attention_where_a_mask_is_on_one_side(kinds: tuple[str, str]):
    """The masks of both directions stand in one table, of different widths or none."""
    check(of_cross_attention(SMALL, "own", kinds=kinds), torch.float32)


@pytest.mark.parametrize("sharing", ["own", "both"])
def test_cross_attention_with_dropout(sharing: str, product_dtype: torch.dtype):
    check(of_cross_attention(SMALL, sharing, p=P), product_dtype)


def test_cross_attention_of_columns_of_a_buffer():
    check(of_cross_attention(SMALL, "images"), torch.float32, stand="columns")


@pytest.mark.parametrize("shape", [SMALL, LONG, WIDE], ids=str)
def test_attention_of_some_rows(shape: Shape, product_dtype: torch.dtype):
    check(of_attention(shape), product_dtype)


@pytest.mark.parametrize("kind", ["dense", "masked", "packed, masked"])
def test_attention_to_every_kind_of_sequence(kind: str):
    check(of_attention(SMALL, kind=kind), torch.float32)


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
def test_attention_of_some_rows_with_dropout(share: bool, product_dtype: torch.dtype):
    check(of_attention(SMALL, share=share, p=P), product_dtype)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_attention_of_tensors_that_are_not_contiguous(stand: Stand):
    check(of_attention(SMALL, share=True), torch.float32, stand=stand)


def test_a_sequence_without_keys_gathers_nothing():
    """Its rows are 0 and get no gradient; the others do not notice."""
    keep = torch.arange(5) < torch.tensor([[3], [0], [5]])
    queries, keys = dense(3, 2, None, CPU), packed(keep, None, torch.float32, kept=8, longest=5)
    query, key_value = randn(6, 32).float().requires_grad_(), randn(8, 64).float().requires_grad_()
    found, _ = attention(query, key_value, queries, keys, 2)
    assert torch.equal(found[2:4], torch.zeros(2, 32))
    found.square().sum().backward()
    assert torch.equal(query.grad[2:4], torch.zeros(2, 32))

    others = query.detach()[[0, 1, 4, 5]].requires_grad_(), key_value.detach().clone().requires_grad_()
    keys = packed(keep[[0, 2]], None, torch.float32, kept=8, longest=5)
    wanted, _ = reference.attention(*others, dense(2, 2, None, CPU), keys, 2)
    wanted.square().sum().backward()
    torch.testing.assert_close(found[[0, 1, 4, 5]], wanted)
    torch.testing.assert_close(query.grad[[0, 1, 4, 5]], others[0].grad)
    torch.testing.assert_close(key_value.grad, others[1].grad)


def test_no_rows_at_all():
    layout = dense(0, 4, None, CPU)
    qkv = torch.zeros(0, 48, requires_grad=True)
    found, _ = self_attention(qkv, layout, 2)
    found.sum().backward()
    assert found.shape == (0, 16)
    assert qkv.grad.shape == (0, 48)


def test_keys_of_sequences_that_ask_nothing_have_gradient_zero():
    keep = torch.zeros(2, 3, dtype=torch.bool)
    queries = packed(keep, None, torch.float32, kept=0, longest=0)
    query = torch.zeros(0, 16, requires_grad=True)
    key_value = randn(6, 32).float().requires_grad_()
    found, _ = attention(query, key_value, queries, dense(2, 3, None, CPU), 2)
    found.sum().backward()
    assert found.shape == (0, 16)
    assert torch.equal(key_value.grad, torch.zeros(6, 32))


def test_lengths_are_what_these_tests_want():
    assert lengths(7, 36).max() == 36
    assert lengths(7, 36).min() == 1
    assert ONE.batch == 1
