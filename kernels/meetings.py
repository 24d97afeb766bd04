"""Who attends to whom, as the attention kernel reads it: a table with a row a *meeting*.

    columns   query_from  query_to  queries  key_from  key_to  keys

`queries` rows from `query_from` on meet `keys` rows from `key_from` on; what they gather is written from
`query_to` on. Sequences that share a text or an image read the same rows and write rows of their own. In
backward their gradients cannot be added where several programs write, so each is written to rows of its own
too (`query_to`, `key_to`), and `Readers` names, for each row that was read, the rows to sum: no atomics, one
order, the same bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Layout


@dataclass(frozen=True)
class Readers:
    """Of R rows, which of N written rows read each (compressed rows)."""

    starts: Tensor
    """(R + 1,) int64."""
    rows: Tensor
    """(N,) int64, ascending between two starts."""


@dataclass(frozen=True)
class Meetings:
    """An attention of M meetings.

    Attributes:
        table: (M, 6) int64.
        bias: (M, W) added to the scores of the keys, in the model's dtype; None for 0.
        most_queries, most_keys: of one meeting.
        written: rows that are written, by queries and (in backward) by keys.
        query_readers, key_readers: where rows are shared. Queries and keys of one buffer have one, the first.
    """

    table: Tensor
    bias: Tensor | None
    most_queries: int
    most_keys: int
    written: tuple[int, int]
    query_readers: Readers | None = None
    key_readers: Readers | None = None


def within(layout: Layout) -> Meetings:
    """Self-attention: each sequence meets itself."""
    if layout.shared:
        raise ValueError("layout: a sequence that shares its rows has none of its own to meet")
    return _meet(layout, layout, (0, 0), (0, 0), (layout.written,) * 2, None)


def between(queries: Layout, keys: Layout, query_rows: int, key_rows: int) -> Meetings:
    """Sequences of a buffer of `query_rows` rows meet those of a buffer of `key_rows` rows."""
    return _meet(
        queries,
        keys,
        (0, 0),
        (0, 0),
        (queries.written, keys.written),
        _readers([queries.sources()], query_rows) if queries.shared else None,
        _readers([keys.sources()], key_rows) if keys.shared else None,
    )


def crossing(texts: Layout, objects: Layout, text_rows: int, object_rows: int) -> Meetings:
    """Both directions of cross attention over one buffer: rows of text, then rows of objects."""
    offset = text_rows, texts.written
    written = texts.written + objects.written
    readers = None
    if texts.shared or objects.shared:
        readers = _readers([texts.sources(), objects.sources() + text_rows], text_rows + object_rows)
    return _join(
        _meet(texts, objects, (0, 0), offset, (written, written), readers),
        _meet(objects, texts, offset, (0, 0), (written, written), readers),
    )


def side_by_side(texts: Layout, objects: Layout) -> Meetings:
    """Self-attention of two streams that stand in one buffer, text first; neither is shared."""
    offset = (texts.written,) * 2
    written = (texts.written + objects.written,) * 2
    return _join(
        _meet(texts, texts, (0, 0), (0, 0), written, None),
        _meet(objects, objects, offset, offset, written, None),
    )


def _meet(
    queries: Layout,
    keys: Layout,
    query_offset: tuple[int, int],
    key_offset: tuple[int, int],
    written: tuple[int, int],
    query_readers: Readers | None,
    key_readers: Readers | None = None,
) -> Meetings:
    """Offsets are of the rows that are read and of those that are written."""
    columns = [
        _first_read(queries) + query_offset[0],
        queries.starts[:-1] + query_offset[1],
        queries.starts.diff(),
        _first_read(keys) + key_offset[0],
        keys.starts[:-1] + key_offset[1],
        keys.starts.diff(),
    ]
    return Meetings(
        torch.stack(columns, 1), keys.bias, queries.width, keys.width, written, query_readers, key_readers
    )


def _first_read(layout: Layout) -> Tensor:
    if layout.rows is None or not layout.shared:
        return layout.starts[:-1]
    return layout.rows.view(layout.batch, layout.width)[:, 0]


def _join(a: Meetings, b: Meetings) -> Meetings:
    return Meetings(
        torch.cat([a.table, b.table]),
        _joined_bias(a, b),
        max(a.most_queries, b.most_queries),
        max(a.most_keys, b.most_keys),
        a.written,
        a.query_readers,
    )


def _joined_bias(a: Meetings, b: Meetings) -> Tensor | None:
    given = [m.bias for m in (a, b) if m.bias is not None]
    if not given:
        return None
    # a direction without a mask may have more keys than the one with it
    width = max(a.most_keys, b.most_keys)
    parts = []
    for meetings in (a, b):
        bias = given[0].new_zeros(len(meetings.table), width)
        if meetings.bias is not None:
            bias[:, : meetings.bias.shape[1]] = meetings.bias
        parts.append(bias)
    return torch.cat(parts)


def _readers(sources: list[Tensor], rows: int) -> Readers:
    """Who reads each of `rows` rows; `sources` says for each written row where it comes from."""
    read = torch.cat(sources)
    order = read.argsort(stable=True)
    bounds = torch.arange(rows + 1, device=read.device)
    return Readers(torch.searchsorted(read[order], bounds), order)
