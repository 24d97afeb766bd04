"""The exact execution plan: what is computed once, and what is never computed.

The paper writes LXMERT for one sentence and one image (section 2). A batch of pairs repeats sentences and
images, pads sentences to one length, and ends in heads that read little of the last layer. The plan says,
before the first layer, which rows there are:

    text       the kept positions of each *text*; padding is never a key, so no other row depends on it
    regions    the kept regions of each *image*
    pairs      the rows of both streams once a text meets an image, in the first cross-modality layer, whose
               queries, keys and values are still those of texts and images
    read       the rows of the last cross-modality layer that a head reads; nothing else of its outputs is
               computed, forward or backward

Nothing in it approximates. A sequence whose padding does matter keeps all its positions: one that is masked
altogether (attention over nothing is uniform over everything), one whose mask is not 0 or 1. Position 0 of a
text is always kept, because the pooled output reads it. Texts and images that are shared share their dropout
draw in the layers before the cross-modality encoder: every pair's expectation is what it was, but two pairs
of an image are no longer independent given the weights; `share_in_training = False` on the model draws for
each pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .kernels.layout import Layout, dense, packed, shared
from .kernels.meetings import Meetings
from .kernels.self_attention import additive_mask


class Reads(NamedTuple):
    """What heads read of the last layer beside the pooled output, which is always read."""

    words: Tensor | None = None
    """(B, T) bool, positions of the texts; None for none."""
    regions: Tensor | None = None
    """(B, O) bool; None for none."""


@dataclass(frozen=True)
class Stream:
    """The rows of one stream, from its embedding to the last layer.

    Attributes:
        single: how texts, or images, stand in the rows.
        entry: pairs that read the rows of `single` and write rows of their own.
        pairs: pairs, from the second cross-modality layer on.
        kept: (N,) int64, the input's positions s * T + t that became rows; None for all of them.
        kept_of_pairs: likewise b * T + t, of the rows of the pairs.
        read: (M,) int64, the rows of the pairs that are read of the last layer.
        readers: how those stand, as queries.
        positions: (N,) int64 in 0..T-1, the position of each row; of texts, where operators want them.
    """

    single: Layout
    entry: Layout
    pairs: Layout
    kept: Tensor | None = None
    kept_of_pairs: Tensor | None = None
    read: Tensor | None = None
    readers: Layout | None = None
    positions: Tensor | None = None

    def select(self, x: Tensor) -> Tensor:
        """The input (S, T, ...) to its rows (N, ...)."""
        x = x.flatten(0, 1)
        return x if self.kept is None else x.index_select(0, self.kept)

    def spread(self, rows: Tensor, width: int) -> Tensor:
        """Rows of the pairs to (B, width, H), with zeros where none was kept."""
        if self.kept_of_pairs is not None:
            places = rows.new_zeros(self.pairs.batch * width, rows.shape[-1])
            rows = places.index_copy(0, self.kept_of_pairs, rows)
        return rows.unflatten(0, (self.pairs.batch, width))


class Room(NamedTuple):
    """How many rows each buffer has; those beyond a plan's own are padding that nobody reads."""

    texts: int
    objects: int
    pair_texts: int
    pair_objects: int
    read_texts: int
    read_objects: int
    words: int
    """Of the rows of text that are read, those of the words."""


class Tables(NamedTuple):
    """Who attends to whom in the cross-modality encoder, as the operators read it.

    Attributes:
        entry: cross attention of the first layer, from the rows of texts and images.
        source: (N,) int64, the row of those that each of the pairs' rows comes from; None: all in order.
        cross: cross attention from the second layer on.
        own: self-attention of both streams.
        from_text: cross attention from the texts alone, in a last layer whose objects nobody reads.
        text_readers, object_readers: of the last layer, from the rows that are read to all of theirs.
        room: rows of the buffers.
    """

    entry: Meetings | None = None
    source: Tensor | None = None
    cross: Meetings | None = None
    own: Meetings | None = None
    from_text: Meetings | None = None
    text_readers: Meetings | None = None
    object_readers: Meetings | None = None
    room: Room | None = None


#: The reference serves.
NO_TABLES = Tables()


@dataclass(frozen=True)
class Plan:
    """Both streams, and who reads what of the last layer.

    Attributes:
        whole: every row of the last layer is computed.
        pooled: (B,) int64, position 0 of each pair among the text rows that leave the last layer.
        words: (M,) int64, likewise the words that were asked for, in the order of (pair, position).
        tables: for the operators.
    """

    text: Stream
    objects: Stream
    whole: bool
    pooled: Tensor
    words: Tensor | None = None
    tables: Tables = NO_TABLES

    @property
    def text_rows(self) -> int:
        """Rows of texts before the first cross-modality layer."""
        room = self.tables.room
        return self.text.single.written if room is None else room.texts

    @property
    def pair_text_rows(self) -> int:
        """Rows of texts from there on."""
        room = self.tables.room
        return self.text.pairs.written if room is None else room.pair_texts

    def read_outputs(self, text: Tensor, objects: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What heads read, where no more than that was computed: rows (M, H), None where they read none."""
        return None if self.words is None else text.index_select(0, self.words), objects

    def outputs(
        self, text: Tensor, objects: Tensor | None, reads: Reads | None, length: int, boxes: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """From the rows that leave the last layer to what was asked for, of text and of objects.

        Everything: (B, T, H) and (B, O, H). What heads read: rows (M, H), None where they read none.
        """
        if reads is None:
            assert objects is not None
            return self.text.spread(text, length), self.objects.spread(objects, boxes)
        if not self.whole:
            return self.read_outputs(text, objects)
        words, regions = reads
        return (
            None if words is None else text[words.flatten()],
            None if regions is None or objects is None else objects[regions.flatten()],
        )


class Inputs(NamedTuple):
    """What a plan follows from: the sizes of a batch, its masks and its indices.

    text_size is (S, T), image_size (I, O); the rest are the arguments of `LxmertModel.forward`.
    """

    text_size: tuple[int, int]
    image_size: tuple[int, int]
    attention_mask: Tensor | None
    visual_attention_mask: Tensor | None
    text_index: Tensor | None
    image_index: Tensor | None
    device: torch.device

    def to(self, device: torch.device) -> Inputs:
        """The same with masks and indices on a device."""
        texts, images, text_index, image_index = (None if x is None else x.to(device) for x in self[2:6])
        return Inputs(self.text_size, self.image_size, texts, images, text_index, image_index, device)


def make_plan(inputs: Inputs, reads: Reads | None, pack: bool, dtype: torch.dtype) -> Plan:
    """The plan of a batch, on the device of its masks: the host, but for a graph that is traced.

    Args:
        reads: None where every row of the last layer is wanted.
        pack: leave out what nothing reads; False keeps every position of every sequence.
        dtype: the model's, of the masks that are added to scores.
    """
    words, regions = reads or Reads()
    text = _stream(
        dense(*inputs.text_size, None, inputs.device),
        inputs.attention_mask,
        inputs.text_index,
        words,
        pack,
        dtype,
        keep_first=True,
    )
    objects = _stream(
        dense(*inputs.image_size, None, inputs.device),
        inputs.visual_attention_mask,
        inputs.image_index,
        regions,
        pack,
        dtype,
    )
    if reads is None:
        return Plan(text, objects, True, text.pairs.first_rows())
    if regions is not None:
        objects = _with_readers(objects, regions)
    if words is None:
        first = text.pairs.first_rows()
        text = replace(text, read=first, readers=dense(len(first), 1, None, first.device))
        return Plan(text, objects, False, torch.arange(len(first), device=first.device))
    wanted = words.clone()
    wanted[:, 0] = True
    text = _with_readers(text, wanted)
    assert text.readers is not None
    return Plan(text, objects, False, text.readers.first_rows(), words[wanted].nonzero()[:, 0])


def _stream(
    every: Layout,
    mask: Tensor | None,
    index: Tensor | None,
    read: Tensor | None,
    pack: bool,
    dtype: torch.dtype,
    *,
    keep_first: bool = False,
) -> Stream:
    if mask is None:
        return _with_pairs(every, index)
    bias = additive_mask(mask, dtype)
    masked = replace(every, mask=bias[:, None, None, :])
    if not pack:
        return _with_pairs(masked, index)
    is_key = mask == 1
    ordinary = (is_key | (mask == 0)).all(1, keepdim=True) & is_key.any(1, keepdim=True)
    keep = is_key | ~ordinary
    if keep_first:
        keep[:, 0] = True
    if read is not None:
        keep |= read if index is None else torch.zeros_like(keep).index_put((index,), read, accumulate=True)
    lengths = keep.sum(1)
    # the only wait for a GPU: everything below has a known size
    totals = [
        lengths.sum(),
        lengths.max(),
        is_key.sum(),
        (lengths if index is None else lengths[index]).sum(),
    ]
    kept, longest, keys, kept_of_pairs = torch.stack(totals).tolist()
    if kept == keep.numel():
        return _with_pairs(every if keys == kept else masked, index)
    single = packed(keep, None if keys == kept else bias, dtype, kept=kept, longest=longest)
    stream = _with_pairs(single, index, kept_of_pairs)
    of_pairs = keep if index is None else keep.index_select(0, index)
    return replace(stream, kept=_where(keep, kept), kept_of_pairs=_where(of_pairs, kept_of_pairs))


def _with_pairs(single: Layout, index: Tensor | None, rows: int = 0) -> Stream:
    return Stream(single, single, single) if index is None else Stream(single, *shared(single, index, rows))


def _with_readers(stream: Stream, read: Tensor) -> Stream:
    """The stream with its rows at `read` (B, T), which are among those kept, singled out."""
    lengths = read.sum(1)
    total, longest = torch.stack([lengths.sum(), lengths.max()]).tolist()
    rows = _where(read, total)
    if stream.kept_of_pairs is not None:
        row_of = rows.new_zeros(read.numel())
        row_of[stream.kept_of_pairs] = torch.arange(len(stream.kept_of_pairs), device=rows.device)
        rows = row_of[rows]
    readers = packed(read, None, torch.float32, kept=total, longest=longest)
    return replace(stream, read=rows, readers=readers)


def _where(mask: Tensor, count: int) -> Tensor:
    """The flat positions of the `count` true entries."""
    return torch.nonzero_static(mask.flatten(), size=count)[:, 0]
