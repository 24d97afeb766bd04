"""The table of who meets whom, and that readers are the inverse of who reads what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lxmert_fast.kernels.layout import Layout, dense, packed, shared
from lxmert_fast.kernels.meetings import Readers, between, crossing, side_by_side, within

CPU = torch.device("cpu")


def of_lengths(lengths: list[int], dtype: torch.dtype = torch.float32) -> Layout:
    """Packed sequences."""
    width = max(1, *lengths)
    keep = torch.arange(width) < torch.tensor(lengths)[:, None]
    return packed(keep, None, dtype, kept=sum(lengths), longest=width)


def rows_of(first: int, length: int) -> list[int]:
    return list(range(first, first + length))


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(lengths=lengths)
@settings(deadline=None)
def test_each_row_meets_its_own_sequence(lengths: list[int]):
    met = within(of_lengths(lengths))
    seen: list[int] = []
    for (query_from, query_to, queries, key_from, key_to, keys), length in zip(
        met.table.tolist(), lengths, strict=True
    ):
        assert query_from == query_to == key_from == key_to
        assert queries == keys == length
        seen += rows_of(query_to, queries)
    assert seen == list(range(sum(lengths)))
    assert met.query_readers is met.key_readers is met.bias is None
    assert max(lengths) <= met.most_keys


@given(data=st.data(), texts=lengths, images=lengths)
@settings(deadline=None)
def test_pairs_that_share(data: st.DataObject, texts: list[int], images: list[int]):
    """Both directions write every row once, read the rows of their text and image, and readers say who."""
    pairs = data.draw(st.integers(1, 8))
    indices = [
        torch.tensor(data.draw(st.lists(st.integers(0, len(of) - 1), min_size=pairs, max_size=pairs)))
        for of in (texts, images)
    ]
    single = [of_lengths(x) for x in (texts, images)]
    read = [
        shared(layout, index, int(layout.starts.diff()[index].sum()))[0]
        for layout, index in zip(single, indices, strict=True)
    ]
    rows = sum(texts), sum(images)
    met = crossing(*read, *rows)
    source: dict[int, int] = {}
    as_keys: dict[int, int] = {}
    for i, (query_from, query_to, queries, key_from, key_to, keys) in enumerate(met.table.tolist()):
        side, pair = divmod(i, pairs)
        offsets = 0, rows[0]
        of, other = int(indices[side][pair]), int(indices[1 - side][pair])
        assert query_from == offsets[side] + int(single[side].starts[of])
        assert key_from == offsets[1 - side] + int(single[1 - side].starts[other])
        assert queries == (texts, images)[side][of]
        assert keys == (texts, images)[1 - side][other]
        for filled, to, first, count in (
            (source, query_to, query_from, queries), (as_keys, key_to, key_from, keys)
        ):  # fmt: skip
            assert not filled.keys() & set(rows_of(to, count)), "a row is written twice"
            filled |= dict(zip(rows_of(to, count), rows_of(first, count), strict=True))
    assert source == as_keys
    assert sorted(source) == list(range(met.written[0]))
    check_inverse(met.query_readers, torch.tensor([source[i] for i in range(len(source))]), sum(rows))


def check_inverse(readers: Readers | None, source: torch.Tensor, rows: int) -> None:
    """Of a row's readers, each reads that row; all are named once, in order."""
    assert readers is not None
    assert len(readers.starts) == rows + 1
    assert sorted(readers.rows.tolist()) == list(range(len(source)))
    for row, (first, last) in enumerate(
        zip(readers.starts[:-1].tolist(), readers.starts[1:].tolist(), strict=True)
    ):
        of_row = readers.rows[first:last]
        assert (source[of_row] == row).all()
        assert of_row.tolist() == sorted(of_row.tolist())


@given(lengths=lengths, index=st.lists(st.integers(0, 5), min_size=1, max_size=8))
@settings(deadline=None)
def test_readers_of_queries_and_keys(lengths: list[int], index: list[int]):
    layout = of_lengths(lengths)
    which = torch.tensor(index) % len(lengths)
    read, pairs = shared(layout, which, int(layout.starts.diff()[which].sum()))
    rows = sum(lengths)
    met = between(read, read, rows, rows)
    for readers in (met.query_readers, met.key_readers):
        check_inverse(readers, read.sources(), rows)
    unshared = between(pairs, pairs, pairs.written, pairs.written)
    assert unshared.query_readers is unshared.key_readers is None
    assert met.written == unshared.written == (pairs.written,) * 2


def test_streams_side_by_side():
    met = side_by_side(of_lengths([2, 3]), dense(2, 4, None, CPU))
    assert met.table.tolist() == [
        [0, 0, 2, 0, 0, 2], [2, 2, 3, 2, 2, 3], [5, 5, 4, 5, 5, 4], [9, 9, 4, 9, 9, 4]
    ]  # fmt: skip
    assert met.written == (13, 13)


@pytest.mark.parametrize("which", [0, 1])
def test_a_mask_of_one_direction_is_as_wide_as_the_keys_of_both(which: int):
    """The other direction's keys, of which there may be more, are all open."""
    mask = torch.full((2, (3, 20)[which]), -7.0)
    layouts = [dense(2, 3, None, CPU), dense(2, 20, None, CPU)]
    layouts[which] = dense(2, (3, 20)[which], mask, CPU)
    met = crossing(*layouts, 6, 40)
    assert met.bias.shape == (4, 20)
    # the text's direction comes first, and its keys are the objects
    closed, opened = (met.bias[:2], met.bias[2:])[:: 1 if which else -1]
    assert torch.equal(closed[:, : mask.shape[1]], mask)
    assert not opened.any()


def test_sequences_that_share_have_no_rows_of_their_own():
    layout = shared(dense(1, 3, None, CPU), torch.tensor([0, 0]), 6)[0]
    with pytest.raises(ValueError, match="layout"):
        within(layout)
