"""The execution plan as the operators read it: tables of meetings, with room for padding rows.

A CUDA graph runs again only on the same shapes, and every batch has another number of kept tokens. So its
buffers have *room*: each is rounded up to one of few sizes, and rows beyond the plan's own meet each other
in entries of their own at the end of a table, whose number is fixed as well. They are finite numbers that no
row of the batch ever reads, and no gradient flows into them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from .execution import Inputs, Plan, Room, Stream, Tables
from .kernels.configs import power_of_two
from .kernels.dispatch import MOST_KEYS
from .kernels.layout import Layout
from .kernels.meetings import (
    Meetings,
    Readers,
    Span,
    between,
    covered,
    crossing,
    side_by_side,
    within,
)

#: A buffer is at most one part in this many larger than what is in it.
PARTS = 8
_LEAST = 16


def bucket(rows: int) -> int:
    """The number rounded up to one of eight sizes between two powers of two, none below 16 apart."""
    step = _step(rows)
    return -(-rows // step) * step


def _step(rows: int) -> int:
    return max(_LEAST, power_of_two(rows, 1) // (2 * PARTS))


def entries_for(rows: int, most: int) -> int:
    """Entries that cover what a bucket of this many rows can lack."""
    return -(-_step(rows) // most)


def exact_room(plan: Plan) -> Room:
    """Buffers as large as what is in them."""
    text, objects = plan.text, plan.objects
    return Room(
        text.single.written,
        objects.single.written,
        text.pairs.written,
        objects.pairs.written,
        0 if text.read is None else len(text.read),
        0 if objects.read is None else len(objects.read),
        0 if plan.words is None else len(plan.words),
    )


class Sizes:
    """The sizes that buffers have had, by name: a buffer keeps its largest while it is not far too large.

    A batch has a dozen sizes, each of which could fall into one bucket or the next. So what has to grow grows
    a little further than it has to, and after a few batches all have the same sizes.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def __call__(self, name: Hashable, rows: int) -> int:
        """The size of a buffer for these rows."""
        known = self._known.get(name)
        if known is None or not rows <= known <= bucket(2 * rows) + 4 * _LEAST:
            self._known[name] = bucket(rows if known is None else rows + rows // (2 * PARTS))
        return self._known[name]


def bucketed_room(plan: Plan, sizes: Sizes) -> Room:
    """Buffers of few sizes."""
    exact = exact_room(plan)
    pairs = plan.text.pairs.batch
    texts, objects, pair_texts, pair_objects, read_texts, read_objects, words = (
        sizes((name, pairs), rows) for name, rows in exact._asdict().items()
    )
    # a stream that keeps every position has a size of its own already, and rows that follow its input's
    if plan.objects.kept is None:
        objects, pair_objects = exact.objects, exact.pair_objects
    if plan.text.kept is None:
        texts, pair_texts = exact.texts, exact.pair_texts
    if not plan.text.entry.shared:
        texts = pair_texts = max(texts, pair_texts)
    if plan.words is None:
        read_texts = exact.read_texts  # one a pair
    return Room(texts, objects, pair_texts, pair_objects, read_texts, read_objects, words)


def with_tables(plan: Plan, inputs: Inputs, room: Room | None = None) -> Plan:
    """The plan with its tables; as it is where a sequence is too long for the kernels.

    Args:
        room: of the buffers, for a graph; None for no padding.
    """
    text, objects = plan.text, plan.objects
    if max(text.single.width, objects.single.width) > MOST_KEYS:
        return plan
    padding = _Padding(exact_room(plan), room)
    of = padding.room
    pairs, written = (text.pairs, objects.pairs), (of.pair_texts, of.pair_objects)
    both = [(span, span) for span in padding.of_both]
    cross = padding.add(crossing(*pairs, *written, written), *both)
    entry, source = _entry(plan, padding) if text.entry.shared or objects.entry.shared else (cross, None)
    tables = Tables(
        entry=entry,
        source=source,
        cross=cross,
        own=padding.add(side_by_side(*pairs, written), *both),
        from_text=padding.add(
            replace(between(*pairs, *written), written=written), (padding.pair_texts, padding.pair_objects)
        ),
        text_readers=_reading(text, of.read_texts, of.pair_texts, padding.pair_texts, padding),
        object_readers=_reading(objects, of.read_objects, of.pair_objects, padding.pair_objects, padding),
        room=of,
    )
    plan = replace(
        plan,
        text=replace(
            _stream(text, padding.texts, of.texts, of.read_texts, padding),
            positions=_positions(text, of.texts, inputs),
        ),
        objects=_stream(objects, padding.objects, of.objects, of.read_objects, padding),
        words=None if plan.words is None else _padded(plan.words, of.words),
        tables=tables,
    )
    if room is None:
        return plan
    return replace(plan, text=_for_operators_alone(plan.text), objects=_for_operators_alone(plan.objects))


class _Padding:
    """The rows of each buffer that belong to no sequence of the batch."""

    def __init__(self, exact: Room, room: Room | None) -> None:
        self.fixed = room is not None
        self.room = room = room or exact
        self.texts = _after(exact.texts, room.texts)
        self.objects = _after(exact.objects, room.objects)
        self.pair_texts = _after(exact.pair_texts, room.pair_texts)
        self.pair_objects = _after(exact.pair_objects, room.pair_objects)
        rows = room.pair_texts + room.pair_objects
        #: Of texts and of objects, where both streams of the pairs stand in one buffer.
        self.of_both = (
            self.pair_texts._replace(read_rows=rows),
            _after(room.pair_texts + exact.pair_objects, rows),
        )

    def add(self, meetings: Meetings, *spans: tuple[Span, Span]) -> Meetings:
        """Meetings that cover spans of query rows and of key rows too, as many as the room asks for."""
        if not self.fixed:
            return meetings
        queries, keys = power_of_two(meetings.most_queries), power_of_two(meetings.most_keys)
        meetings = replace(meetings, most_queries=queries, most_keys=keys)
        entries = entries_for(max(*self.room, 1), min(queries, keys))
        for span in spans:
            meetings = covered(meetings, *span, entries)
        return meetings


def _after(rows: int, room: int) -> Span:
    """The padding of a buffer that is read and written alike."""
    return Span(rows, rows, room - rows, room)


def _entry(plan: Plan, padding: _Padding) -> tuple[Meetings, Tensor]:
    """The first cross attention, of shared texts and images; and where the pairs' rows come from."""
    texts, images, room = plan.text.entry, plan.objects.entry, padding.room
    written = room.pair_texts, room.pair_objects
    source = torch.cat(
        [
            _padded(texts.sources(), room.pair_texts),
            _padded(images.sources() + room.texts, room.pair_objects),
        ]
    )
    # the pairs' padding has no row of its own to read; the first ones serve
    spans = [span._replace(read=0, read_rows=room.texts + room.objects) for span in padding.of_both]
    entry = padding.add(
        crossing(texts, images, room.texts, room.objects, written), *[(span, span) for span in spans]
    )
    readers = entry.query_readers
    assert readers is not None
    # as many as rows are written; those beyond the last start are never looked at
    longer = Readers(readers.starts, _padded(readers.rows, sum(written)))
    return replace(entry, query_readers=longer), source


def _for_operators_alone(stream: Stream) -> Stream:
    """Without what the reference reads, whose sizes are the batch's own."""

    def bare(layout: Layout) -> Layout:
        return replace(layout, mask=None, rows=None, places=None)

    return replace(
        stream,
        single=bare(stream.single),
        entry=bare(stream.entry),
        pairs=bare(stream.pairs),
        kept_of_pairs=None,
        readers=None if stream.readers is None else bare(stream.readers),
    )


def _stream(stream: Stream, span: Span, rows: int, read: int, padding: _Padding) -> Stream:
    """The stream with its own self-attention at hand, and indices as long as its buffers."""
    own = replace(padding.add(within(stream.single), (span, span)), written=(rows, rows))
    kept = stream.kept
    if kept is None and span.rows:
        kept = torch.arange(stream.single.written, device=stream.single.starts.device)
    return replace(
        stream,
        single=replace(stream.single, meetings=own),
        kept=None if kept is None else _padded(kept, rows),
        read=None if stream.read is None else _padded(stream.read, read),
    )


def _positions(text: Stream, rows: int, inputs: Inputs) -> Tensor:
    """(N,) int64, the position of each row of text in its sentence."""
    kept = torch.arange(rows, device=inputs.device) if text.kept is None else _padded(text.kept, rows)
    return kept % inputs.text_size[1]


def _reading(stream: Stream, read: int, rows: int, keys: Span, padding: _Padding) -> Meetings | None:
    """The rows that are read meet all rows of their sequences."""
    if stream.readers is None:
        return None
    meetings = replace(between(stream.readers, stream.pairs, read, rows), written=(read, rows))
    return padding.add(meetings, (_after(stream.readers.written, read), keys))


def _padded(index: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(index, (0, size - len(index)))
