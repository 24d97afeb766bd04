"""The kernels of both embeddings, as good as eager PyTorch."""

from __future__ import annotations

import pytest
import torch
from drawn import drawing, new_seed, of_rows
from guards import Stand, guarded
from standing import randn
from three_runs import assert_as_good_as_eager
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.kernels.text_embedding import embed_text
from lxmert_fast.kernels.text_embedding import reference as text_reference
from lxmert_fast.kernels.visual_embedding import embed_regions
from lxmert_fast.kernels.visual_embedding import reference as visual_reference

WORDS, PLACES = 97, 16


def norm(width: int, name: str, seed: int) -> dict[str, Tensor]:
    """A LayerNorm's weight and shift."""
    return {f"{name}_weight": randn(width, seed=seed) + 1.0, f"{name}_shift": randn(width, seed=seed + 1)}


def check_text(
    rows: int,
    width: int,
    dtype: torch.dtype,
    *,
    segments: bool = True,
    padding: int = 0,
    p: float = 0.0,
    stand: Stand = "contiguous",
    wide: tuple[str, ...] = (),
) -> None:
    generator = torch.Generator().manual_seed(rows)
    ids, positions, of_segments = (torch.randint(n, (rows,), generator=generator) for n in (WORDS, PLACES, 2))
    ids[::5] = 0
    seed = new_seed()
    mask = of_rows(seed, (rows, width), p)
    tensors = {
        "word": randn(WORDS, width),
        "position": randn(PLACES, width),
        "segment": randn(2, width),
        **norm(width, "norm", 3),
    }
    indices = [guarded(x, stand) for x in (ids, positions, of_segments)]

    def kernel(
        word: Tensor, position: Tensor, segment: Tensor, norm_weight: Tensor, norm_shift: Tensor
    ) -> Tensor:
        return embed_text(
            (word, position, segment), (indices[0], indices[1], indices[2] if segments else None),
            (norm_weight, norm_shift), padding=padding, dropout_p=p, seed=seed,
        )  # fmt: skip

    def formula(
        word: Tensor, position: Tensor, segment: Tensor, norm_weight: Tensor, norm_shift: Tensor
    ) -> Tensor:
        row = padding if padding >= 0 else None
        own = of_segments if segments else torch.zeros_like(ids)
        vectors = (
            F.embedding(i, table, row if row is not None and row < len(table) else None)
            for i, table in ((ids, word), (positions, position), (own, segment))
        )
        with drawing(text_reference, *[mask] if p else []):
            scaling = norm_weight.to(word.dtype), norm_shift.to(word.dtype)
            return text_reference.text_embedding(*vectors, scaling, dropout_p=p)

    assert_as_good_as_eager(kernel, formula, tensors, dtype, stand=stand, wide=wide)


@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
@pytest.mark.parametrize("padding", [-1, 0])
def test_text_with_segments_and_padding(segments: bool, padding: int, dtype: torch.dtype):
    check_text(70, 48, dtype, segments=segments, padding=padding)


@pytest.mark.parametrize(("rows", "width"), [(1, 48), (140, 80), (33, 768)])
def test_text_rows_and_widths(rows: int, width: int):
    check_text(rows, width, torch.float32)


@pytest.mark.parametrize("segments", [False, True], ids=["", "segments"])
def test_text_with_dropout(segments: bool, dtype: torch.dtype):
    check_text(70, 48, dtype, p=0.3, segments=segments)


def test_text_with_a_norm_in_single_precision():
    check_text(33, 48, torch.float16, wide=("norm_weight", "norm_shift"))


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_text_tables_that_are_not_contiguous(stand: Stand):
    check_text(33, 48, torch.float32, stand=stand)


def test_no_words():
    tables = torch.ones(3, 48), torch.ones(4, 48), torch.ones(2, 48)
    weight, shift = (torch.ones(48, requires_grad=True) for _ in range(2))
    none = torch.zeros(0, dtype=torch.int64)
    found = embed_text(tables, (none, none, None), (weight, shift), padding=0)
    found.sum().backward()
    assert found.shape == (0, 48)
    assert torch.equal(weight.grad, torch.zeros(48))


def check_visual(
    rows: int,
    width: int,
    dtype: torch.dtype,
    *,
    bias: bool = True,
    p: float = 0.0,
    stand: Stand = "contiguous",
    wide: tuple[str, ...] = (),
) -> None:
    seed = new_seed()
    mask = of_rows(seed, (rows, width), p)
    tensors = {
        "feature": randn(rows, width),
        "box": randn(rows, 4).sigmoid(),
        "projection": randn(width, 4),
        "projection_bias": randn(width, seed=1, scale=0.5),
        **norm(width, "feature_norm", 3),
        **norm(width, "box_norm", 5),
    }
    if bias:
        tensors["feature_bias"] = randn(width, seed=7)

    def kernel(feature: Tensor, box: Tensor, **of: Tensor) -> Tensor:
        return embed_regions(
            feature, of.get("feature_bias"), box, (of["projection"], of["projection_bias"]),
            (of["feature_norm_weight"], of["feature_norm_shift"]),
            (of["box_norm_weight"], of["box_norm_shift"]), dropout_p=p, seed=seed,
        )  # fmt: skip

    def formula(feature: Tensor, box: Tensor, **of: Tensor) -> Tensor:
        of = {name: x.to(feature.dtype) for name, x in of.items()}
        if bias:
            feature = feature + of["feature_bias"]
        with drawing(visual_reference, *[mask] if p else []):
            return visual_reference.visual_embedding(
                feature, F.linear(box, of["projection"], of["projection_bias"]),
                (of["feature_norm_weight"], of["feature_norm_shift"]),
                (of["box_norm_weight"], of["box_norm_shift"]), dropout_p=p,
            )  # fmt: skip

    assert_as_good_as_eager(kernel, formula, tensors, dtype, stand=stand, wide=wide)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_regions(bias: bool, p: float, dtype: torch.dtype):
    check_visual(110, 48, dtype, bias=bias, p=p)


@pytest.mark.parametrize(("rows", "width"), [(1, 48), (300, 80), (36, 768)])
def test_region_rows_and_widths(rows: int, width: int):
    check_visual(rows, width, torch.float32)


def test_regions_with_parameters_in_single_precision():
    own = ("feature_norm_weight", "feature_norm_shift", "box_norm_weight", "box_norm_shift")
    check_visual(33, 48, torch.float16, wide=(*own, "projection", "projection_bias", "feature_bias"))


@pytest.mark.parametrize("stand", ["columns", "transposed"])
def test_regions_that_are_not_contiguous(stand: Stand):
    check_visual(33, 48, torch.float32, stand=stand)


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
