"""Who attends to whom, as the attention kernel reads it: a table with a row a *meeting*.

    columns   query_from  query_to  queries  key_from  key_to  keys

`queries` rows from `query_from` on meet `keys` rows from `key_from` on; what they gather is written from
`query_to` on. Sequences that share a text or an image read the same rows and write rows of their own. In
backward their gradients cannot be added where several programs write, so each is written to rows of its own
too (`query_to`, `key_to`), and `Readers` names, for each row that was read, the rows to sum: no atomics, one
order, the same bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .layout import Layout


@dataclass(frozen=True)
class Readers:
    """Of R rows, which of N written rows read each (compressed rows)."""

    starts: Tensor
    """(R + 1,) int64."""
    rows: Tensor
    """(N,) int64, ascending between two starts; what lies beyond the last start is padding."""


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


def crossing(
    texts: Layout,
    objects: Layout,
    text_rows: int,
    object_rows: int,
    written_rows: tuple[int, int] | None = None,
) -> Meetings:
    """Both directions of cross attention over one buffer: rows of text, then rows of objects.

    Args:
        text_rows, object_rows: that are read.
        written_rows: of text and of objects; those of the layouts, where the buffer has no more.
    """
    text_written, object_written = written_rows or (texts.written, objects.written)
    offset = text_rows, text_written
    written = text_written + object_written
    readers = None
    if texts.shared or objects.shared:
        readers = _readers([texts.sources(), objects.sources() + text_rows], text_rows + object_rows)
        # objects are written after the padding of the text
        late = (readers.rows >= texts.written) * (text_written - texts.written)
        readers = Readers(readers.starts, readers.rows + late)
    return _join(
        _meet(texts, objects, (0, 0), offset, (written, written), readers),
        _meet(objects, texts, offset, (0, 0), (written, written), readers),
    )


def side_by_side(texts: Layout, objects: Layout, rows: tuple[int, int] | None = None) -> Meetings:
    """Self-attention of two streams that stand in one buffer, text first; neither is shared.

    `rows` of text and of objects: those of the layouts, where the buffer has no more.
    """
    text_rows, object_rows = rows or (texts.written, objects.written)
    offset = (text_rows,) * 2
    written = (text_rows + object_rows,) * 2
    return _join(
        _meet(texts, texts, (0, 0), (0, 0), written, None),
        _meet(objects, objects, offset, offset, written, None),
    )


class Span(NamedTuple):
    """Rows that nobody has: `rows` of them are written from `written` on; they read from `read` on."""

    read: int
    written: int
    rows: int
    read_rows: int
    """Rows that there are to read."""


def covered(meetings: Meetings, queries: Span, keys: Span, entries: int) -> Meetings:
    """The meetings and `entries` more over rows that pad a buffer, so that none is left unwritten.

    Raises:
        ValueError: the entries do not cover the rows.
    """
    most = min(meetings.most_queries, meetings.most_keys)
    columns = []
    for span in (queries, keys):
        limit = min(most, span.read_rows) if span.rows else 0
        if span.rows > entries * limit:
            raise ValueError(f"{entries} entries of {limit} rows do not cover {span.rows}")
        first = torch.arange(entries) * limit
        lengths = (span.rows - first).clamp(0, limit)
        # rows that several pairs read have no row of their own to read; the first ones serve
        step = first if span.read == span.written else first * 0
        columns += [span.read + step, span.written + first, lengths]
    table = torch.cat([meetings.table, torch.stack(columns, 1)])
    bias = meetings.bias
    if bias is not None:
        bias = torch.cat([bias, bias.new_zeros(entries, bias.shape[1])])
    return replace(meetings, table=table, bias=bias)


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
