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
    NOTHING,
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
    fixed = room is not None
    room = room or exact_room(plan)
    exact = exact_room(plan)
    shares = text.entry.shared or objects.entry.shared
    pairs = text.pairs, objects.pairs
    written = room.pair_texts, room.pair_objects
    # padding rows of texts and of objects, as the pairs' buffer has them
    pads = (
        Span(exact.pair_texts, exact.pair_texts, written[0] - exact.pair_texts, sum(written)),
        Span(
            written[0] + exact.pair_objects,
            written[0] + exact.pair_objects,
            written[1] - exact.pair_objects,
            sum(written),
        ),
    )
    read = room.texts + room.objects

    def pad(meetings: Meetings, *spans: tuple[Span, Span]) -> Meetings:
        if not fixed:
            return meetings
        meetings = replace(
            meetings,
            most_queries=power_of_two(meetings.most_queries),
            most_keys=power_of_two(meetings.most_keys),
        )
        for queries, keys in spans:
            most = min(meetings.most_queries, meetings.most_keys)
            entries = entries_for(max(*room, 1), most)
            meetings = covered(meetings, queries, keys, entries)
        return meetings

    both = [(span, span) for span in pads]
    cross = pad(crossing(*pairs, *written, written), *both)
    entry, source = cross, None
    if shares:
        entry = crossing(text.entry, objects.entry, room.texts, room.objects, written)
        source = torch.cat(
            [
                _padded(text.entry.sources(), room.pair_texts),
                _padded(objects.entry.sources() + room.texts, room.pair_objects),
            ]
        )
        shared_pads = [span._replace(read=0, read_rows=read) for span in pads]
        entry = _with_long_readers(pad(entry, *[(span, span) for span in shared_pads]), sum(written))
    own_text = Span(exact.texts, exact.texts, room.texts - exact.texts, room.texts)
    own_objects = Span(exact.objects, exact.objects, room.objects - exact.objects, room.objects)
    from_text = replace(between(*pairs, *written), written=written)
    object_pads = Span(exact.pair_objects, exact.pair_objects, pads[1].rows, written[1])
    tables = Tables(
        entry=entry,
        source=source,
        cross=cross,
        own=pad(side_by_side(*pairs, written), *both),
        from_text=pad(from_text, (pads[0], object_pads)),
        text_readers=_reading(text, room.read_texts, written[0], pads[0], pad),
        object_readers=_reading(objects, room.read_objects, written[1], object_pads, pad),
        room=room,
    )
    plan = replace(
        plan,
        text=_stream(
            text, pad(within(text.single), (own_text, own_text)), room.texts, room.read_texts, inputs
        ),
        objects=_stream(
            objects, pad(within(objects.single), (own_objects, own_objects)), room.objects, room.read_objects
        ),
        words=None if plan.words is None else _padded(plan.words, room.words),
        tables=tables,
    )
    if not fixed:
        return plan
    return replace(plan, text=_for_operators_alone(plan.text), objects=_for_operators_alone(plan.objects))


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


def _stream(stream: Stream, own: Meetings, rows: int, read: int, inputs: Inputs | None = None) -> Stream:
    """The stream with its own self-attention at hand, and indices as long as its buffers."""
    own = replace(own, written=(rows, rows))
    kept = stream.kept
    if kept is None and rows != stream.single.written:
        kept = torch.arange(stream.single.written, device=stream.single.starts.device)
    positions = None
    if inputs is not None:
        every = torch.arange(rows, device=inputs.device) if kept is None else _padded(kept, rows)
        positions = every % inputs.text_size[1]
    return replace(
        stream,
        single=replace(stream.single, meetings=own),
        kept=None if kept is None else _padded(kept, rows),
        read=None if stream.read is None else _padded(stream.read, read),
        positions=positions,
    )


def _reading(stream: Stream, read: int, rows: int, pads: Span, pad: object) -> Meetings | None:
    """The rows that are read meet all rows of their sequences."""
    if stream.readers is None:
        return None
    meetings = replace(between(stream.readers, stream.pairs, read, rows), written=(read, rows))
    exact = stream.readers.written
    assert callable(pad)
    queries = Span(exact, exact, read - exact, read) if read > exact else NOTHING
    return pad(meetings, (queries, pads))


def _with_long_readers(meetings: Meetings, rows: int) -> Meetings:
    """Readers with as many entries as rows are written; those beyond the last start are never looked at."""
    readers = meetings.query_readers
    assert readers is not None
    longer = Readers(readers.starts, _padded(readers.rows, rows))
    return replace(meetings, query_readers=longer)


def _padded(index: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(index, (0, size - len(index)))
