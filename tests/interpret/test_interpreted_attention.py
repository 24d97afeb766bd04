"""The attention kernel in every use, as good as eager PyTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from drawn import drawing, new_seed, of_meetings
from guards import Stand
from standing import CPU, KINDS, LONG, ONE, SHAPES, SMALL, WIDE, Shape, lengths, randn, standing
from three_runs import assert_as_good_as_eager
from torch import Tensor

from lxmert_fast.kernels.cross_attention import cross_attention
from lxmert_fast.kernels.cross_attention.reference import cross_attention as cross_formula
from lxmert_fast.kernels.layout import Layout, dense, packed, shared
from lxmert_fast.kernels.self_attention import attention, reference, self_attention

P = 0.3


def check_self(
    shape: Shape, kind: str, dtype: torch.dtype, *, p: float = 0.0, stand: Stand = "contiguous"
) -> None:
    """Of the objects, which are the longer sequences."""
    batch, _, width, hidden, heads = shape
    seed = new_seed()

    def kernel(qkv: Tensor) -> Tensor:
        layout = standing(kind, batch, width, qkv.dtype)
        return self_attention(qkv, layout, heads, dropout_p=p, seed=seed)[0]

    def formula(qkv: Tensor) -> Tensor:
        layout = standing(kind, batch, width, qkv.dtype)
        mask = of_meetings(seed, 0, (batch, heads, layout.width, layout.width), p)
        with drawing(reference, *[mask] if p else []):
            return reference.self_attention(qkv, layout, heads, dropout_p=p)[0]

    rows = standing(kind, batch, width, dtype).written
    assert_as_good_as_eager(kernel, formula, {"qkv": randn(rows, 3 * hidden)}, dtype, stand=stand)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_self_attention(shape: Shape, product_dtype: torch.dtype):
    check_self(shape, "packed", product_dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_self_attention_of_every_kind_of_sequence(kind: str, product_dtype: torch.dtype):
    check_self(SMALL, kind, product_dtype)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_self_attention_of_tensors_that_are_not_contiguous(stand: Stand, product_dtype: torch.dtype):
    check_self(SMALL, "packed", product_dtype, stand=stand)


@pytest.mark.parametrize("shape", [SMALL, LONG], ids=str)
@pytest.mark.parametrize("kind", ["packed", "masked"])
def test_self_attention_with_dropout(shape: Shape, kind: str, product_dtype: torch.dtype):
    check_self(shape, kind, product_dtype, p=P)


def test_texts_of_every_length():
    """1 to 64 words, in one launch."""
    keep = torch.arange(64) <= torch.arange(64)[:, None]
    layout = packed(keep, None, torch.float32, kept=int(keep.sum()), longest=64)

    def formula(qkv: Tensor) -> Tensor:
        return reference.self_attention(qkv, replace(layout, mask=layout.mask.to(qkv.dtype)), 1)[0]

    assert_as_good_as_eager(
        lambda qkv: self_attention(qkv, layout, 1)[0], formula, {"qkv": randn(64 * 65 // 2, 24)},
        torch.float32,
    )  # fmt: skip


def test_a_width_of_as_many_keys_as_fit():
    check_self(Shape(1, 1, 128, 24, 2), "dense", torch.float32)


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


SHARING = ("own", "images", "texts", "both")


def crossing_layouts(
    shape: Shape, sharing: str, kinds: tuple[str, str], dtype: torch.dtype
) -> tuple[tuple[Layout, Layout], tuple[int, int]]:
    """Texts and objects as pairs read them, and how many rows each has."""
    texts = standing(kinds[0], shape.batch, shape.texts, dtype)
    objects = standing(kinds[1], shape.batch, shape.objects, dtype)
    rows = texts.written, objects.written
    if sharing == "own":
        return (texts, objects), rows
    pairs = 2 * shape.batch if sharing == "both" else shape.batch
    # text 0 is never read where texts are shared, image 0 often
    text_index = torch.arange(pairs) // 2 + shape.batch - (pairs + 1) // 2
    image_index = torch.arange(pairs) * 3 // 4 % shape.batch
    if sharing in ("texts", "both"):
        texts, _ = shared(texts, text_index, int(texts.starts.diff()[text_index].sum()))
    if sharing in ("images", "both"):
        objects, _ = shared(objects, image_index, int(objects.starts.diff()[image_index].sum()))
    return (texts, objects), rows


def check_cross(
    shape: Shape,
    sharing: str,
    dtype: torch.dtype,
    *,
    kinds: tuple[str, str] = ("packed", "packed"),
    p: float = 0.0,
    stand: Stand = "contiguous",
) -> None:
    hidden, heads, seed = shape.hidden, shape.heads, new_seed()

    def kernel(qkv: Tensor) -> Tensor:
        layouts, rows = crossing_layouts(shape, sharing, kinds, qkv.dtype)
        return cross_attention(qkv, rows[0], *layouts, heads, dropout_p=p, seed=seed).context

    def formula(qkv: Tensor) -> Tensor:
        (texts, objects), rows = crossing_layouts(shape, sharing, kinds, qkv.dtype)
        pairs, widths = texts.batch, (texts.width, objects.width)
        masks = [
            of_meetings(seed, first, (pairs, heads, *sides), p)
            for first, sides in ((0, widths), (pairs, widths[::-1]))
        ]
        with drawing(reference, *masks if p else []):
            return cross_formula(qkv, rows[0], texts, objects, heads, dropout_p=p).context

    _, rows = crossing_layouts(shape, sharing, kinds, dtype)
    assert_as_good_as_eager(kernel, formula, {"qkv": randn(sum(rows), 3 * hidden)}, dtype, stand=stand)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_attention(shape: Shape, product_dtype: torch.dtype):
    check_cross(shape, "own", product_dtype)


@pytest.mark.parametrize("sharing", SHARING)
def test_cross_attention_of_shared_texts_and_images(sharing: str, product_dtype: torch.dtype):
    check_cross(SMALL, sharing, product_dtype)


@pytest.mark.parametrize(
    "kinds", [("masked", "dense"), ("dense", "masked"), ("packed, masked", "packed"), ("packed", "masked")]
)
def test_cross_attention_where_a_mask_is_on_one_side(kinds: tuple[str, str]):
    """The masks of both directions stand in one table, of different widths or none."""
    check_cross(SMALL, "own", torch.float32, kinds=kinds)


@pytest.mark.parametrize("sharing", ["own", "both"])
def test_cross_attention_with_dropout(sharing: str, product_dtype: torch.dtype):
    check_cross(SMALL, sharing, product_dtype, p=P)


def test_cross_attention_of_columns_of_a_buffer():
    check_cross(SMALL, "images", torch.float32, stand="columns")


def reading(batch: int, width: int, seed: int = 0) -> Layout:
    """Some queries of each sequence: in the first none, in the last all."""
    generator = torch.Generator().manual_seed(seed)
    read = torch.rand(batch, width, generator=generator) < 0.4
    read[0], read[-1] = False, True
    return packed(read, None, torch.float32, kept=int(read.sum()), longest=width)


def check_attention(
    shape: Shape,
    dtype: torch.dtype,
    *,
    kind: str = "packed",
    share: bool = False,
    p: float = 0.0,
    stand: Stand = "contiguous",
) -> None:
    """From some words to all objects."""
    batch, width, objects, hidden, heads = shape
    queries, seed = reading(batch, width), new_seed()
    query_rows, key_rows = queries.written, standing(kind, batch, objects, dtype).written
    index = torch.arange(batch) // 2

    def both(of: torch.dtype) -> tuple[Layout, Layout]:
        keys = standing(kind, batch, objects, of)
        if not share:
            return queries, keys
        read = [shared(x, index, int(x.starts.diff()[index].sum()))[0] for x in (queries, keys)]
        return read[0], read[1]

    def kernel(query: Tensor, key_value: Tensor) -> Tensor:
        return attention(query, key_value, *both(query.dtype), heads, dropout_p=p, seed=seed)[0]

    def formula(query: Tensor, key_value: Tensor) -> Tensor:
        q, k = both(query.dtype)
        mask = of_meetings(seed, 0, (batch, heads, q.width, k.width), p)
        with drawing(reference, *[mask] if p else []):
            return reference.attention(query, key_value, q, k, heads, dropout_p=p)[0]

    tensors = {"query": randn(query_rows, hidden), "key_value": randn(key_rows, 2 * hidden, seed=1)}
    assert_as_good_as_eager(kernel, formula, tensors, dtype, stand=stand)


@pytest.mark.parametrize("shape", [SMALL, LONG, WIDE], ids=str)
def test_attention_of_some_rows(shape: Shape, product_dtype: torch.dtype):
    check_attention(shape, product_dtype)


@pytest.mark.parametrize("kind", ["dense", "masked", "packed, masked"])
def test_attention_to_every_kind_of_sequence(kind: str):
    check_attention(SMALL, torch.float32, kind=kind)


@pytest.mark.parametrize("share", [False, True], ids=["own", "shared"])
def test_attention_of_some_rows_with_dropout(share: bool, product_dtype: torch.dtype):
    check_attention(SMALL, product_dtype, share=share, p=P)


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_attention_of_tensors_that_are_not_contiguous(stand: Stand):
    check_attention(SMALL, torch.float32, stand=stand, share=True)


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
