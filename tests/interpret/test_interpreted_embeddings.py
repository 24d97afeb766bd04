"""The kernels of both embeddings, as good as eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from guards import Stand, guarded
from operations import of_regions, of_text
from three_runs import assert_as_good_as_eager as check

from lxmert_fast.kernels.text_embedding import embed_text
from lxmert_fast.kernels.visual_embedding import embed_regions


@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
@pytest.mark.parametrize("padding", [-1, 0])
def test_text_with_segments_and_padding(segments: bool, padding: int, dtype: torch.dtype):
    check(of_text(70, 48, segments=segments, padding=padding), dtype)


@pytest.mark.parametrize(("rows", "width"), [(1, 48), (140, 80), (33, 768)])
def test_text_rows_and_widths(rows: int, width: int):
    check(of_text(rows, width), torch.float32)


@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
def test_text_with_dropout(segments: bool, dtype: torch.dtype):
    check(of_text(70, 48, p=0.3, segments=segments), dtype)


def test_text_with_a_norm_in_single_precision():
    check(of_text(33, 48), torch.float16, wide=("norm_weight", "norm_shift"))


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_text_tables_that_are_not_contiguous(stand: Stand):
    case = of_text(33, 48, place=lambda ids: guarded(ids, stand))
    check(case, torch.float32, stand=stand)


def test_no_words():
    tables = torch.ones(3, 48), torch.ones(4, 48), torch.ones(2, 48)
    weight, shift = (torch.ones(48, requires_grad=True) for _ in range(2))
    none = torch.zeros(0, dtype=torch.int64)
    found = embed_text(tables, (none, none, None), (weight, shift), padding=0)
    found.sum().backward()
    assert found.shape == (0, 48)
    assert torch.equal(weight.grad, torch.zeros(48))


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_regions(bias: bool, p: float, dtype: torch.dtype):
    check(of_regions(110, 48, bias=bias, p=p), dtype)


@pytest.mark.parametrize(("rows", "width"), [(1, 48), (300, 80), (36, 768)])
def test_region_rows_and_widths(rows: int, width: int):
    check(of_regions(rows, width), torch.float32)


def test_regions_with_parameters_in_single_precision():
    own = ("feature_norm_weight", "feature_norm_shift", "box_norm_weight", "box_norm_shift")
    check(of_regions(33, 48), torch.float16, wide=(*own, "projection", "projection_bias", "feature_bias"))


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_regions_that_are_not_contiguous(stand: Stand):
    check(of_regions(33, 48), torch.float32, stand=stand)


def test_no_regions():
    weight, bias, one, two, three, four = (
        torch.ones(*shape, requires_grad=True) for shape in ((48, 4), (48,), (48,), (48,), (48,), (48,))
    )
    found = embed_regions(
        torch.zeros(0, 48), None, torch.zeros(0, 4), (weight, bias), (one, two), (three, four)
    )
    found.sum().backward()
    assert found.shape == (0, 48)
    assert torch.equal(weight.grad, torch.zeros(48, 4))
