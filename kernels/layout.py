"""How the rows of a stream stand: B sequences of up to T positions, kept as rows (N, H).

Between attentions LXMERT treats every position alike, so hidden states are rows and nothing else; only
attention has to know which rows belong together. A `Layout` says it for one stream:

    dense    row b * T + t is position t of sequence b, nothing is left out
    packed   place (b, t) holds the t-th kept position of sequence b, row starts[b] + t; a place beyond the
             sequence's length holds nothing and is closed by the mask
    shared   dense or packed sequences that read the same rows: the pairs of one text or of one image

The reference implementations `read` rows into (B, T, H), attend there and `write` rows back; Triton kernels
read the rows where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .meetings import Meetings

#: A softmax over fewer keys than a vector register holds is several times slower on a CPU than over these.
LEAST_KEYS = 16


@dataclass(frozen=True)
class Layout:
    """B sequences over rows.

    Attributes:
        batch: B.
        width: T, the places of a sequence.
        starts: (B + 1,) int64, the first row of each sequence among those written, then how many there are.
        mask: (B, 1, 1, T) additive over keys: 0 for a key, -inf where there is nothing, the dtype's smallest
            value for a kept position that is no key; None where every place is a key.
        rows: (B * T,) int64, the row that each place reads, row 0 where there is nothing; None: all in order.
        places: (N,) int64, the place that each row is written from; None: all in order.
        shared: some rows are read more than once, or never.
        lengths_only: the mask says no more than the lengths do; kernels that know those need no mask.
        meetings: the layout's self-attention as the kernel reads it, where a plan has made it.
    """

    batch: int
    width: int
    starts: Tensor
    mask: Tensor | None = None
    rows: Tensor | None = None
    places: Tensor | None = None
    shared: bool = False
    lengths_only: bool = False
    meetings: Meetings | None = None

    @property
    def bias(self) -> Tensor | None:
        """(B, T), what the mask adds to scores of kept positions; None for 0."""
        return None if self.mask is None or self.lengths_only else self.mask[:, 0, 0, :]

    @property
    def written(self) -> int:
        """N, the rows that are written."""
        return self.batch * self.width if self.places is None else len(self.places)

    def read(self, x: Tensor) -> Tensor:
        """Rows (N, H) to places (B, T, H)."""
        if self.rows is not None:
            x = _read(x, self.rows, None if self.shared else self.places)
        return x.unflatten(0, (self.batch, self.width))

    def write(self, x: Tensor) -> Tensor:
        """Places (B, T, H) to rows (N, H)."""
        x = x.flatten(0, 1)
        return x if self.places is None else _write(x, self.places)

    def repeat(self, x: Tensor) -> Tensor:
        """Rows as often as they are read: what `write(read(x))` gives."""
        if not self.shared:
            return x
        return x.index_select(0, self.sources())

    def sources(self) -> Tensor:
        """(N,) int64, the row that each written row comes from: `repeat` as an index."""
        if self.rows is None:
            return torch.arange(self.written, device=self.starts.device)
        return self.rows if self.places is None else self.rows[self.places]

    def first_rows(self) -> Tensor:
        """(B,) int64, the row of each sequence's first position."""
        return self.starts[:-1]


def dense(batch: int, width: int, bias: Tensor | None, device: torch.device) -> Layout:
    """Every position of every sequence; `bias` (B, T) is added to the scores of the keys."""
    starts = torch.arange(batch + 1, device=device) * width
    return Layout(batch, width, starts, None if bias is None else bias[:, None, None, :])


def packed(keep: Tensor, bias: Tensor | None, dtype: torch.dtype, *, kept: int, longest: int) -> Layout:
    """The kept positions of every sequence, in order.

    Args:
        keep: (B, T) bool. As keys, a sequence has to keep at least one.
        bias: (B, T) additive over keys; None for 0.
        dtype: of the mask.
        kept, longest: how many positions are kept in all, and in one sequence at most. They are asked for
            because a GPU would have to wait for them here.
    """
    lengths = keep.sum(1)
    flat = torch.nonzero_static(keep.flatten(), size=kept)[:, 0]
    width = max(longest, LEAST_KEYS)
    starts, places = _places(lengths, width, kept)
    mask = torch.full((len(keep) * width,), -torch.inf, dtype=dtype, device=keep.device)
    mask[places] = 0.0 if bias is None else bias.flatten()[flat].to(dtype)
    rows = _inverse(places, len(mask))
    mask = mask.view(-1, 1, 1, width)
    return Layout(len(keep), width, starts, mask, rows, places, lengths_only=bias is None)


def shared(layout: Layout, index: Tensor, written: int) -> tuple[Layout, Layout]:
    """Pairs that read a text or an image each.

    Args:
        layout: of the texts or images.
        index: (B,) int64, which of them each pair reads.
        written: rows of all pairs together.

    Returns:
        The layout that reads the texts' rows and writes rows of pairs, and the one that reads those.
    """
    batch, width, device = len(index), layout.width, index.device
    mask = None if layout.mask is None else layout.mask.index_select(0, index)
    if layout.rows is None:
        rows = (index[:, None] * width + torch.arange(width, device=device)).flatten()
        pairs = dense(batch, width, None, device)
        return replace(pairs, mask=mask, rows=rows, shared=True), replace(pairs, mask=mask)
    rows = layout.rows.view(-1, width).index_select(0, index).flatten()
    starts, places = _places(layout.starts.diff().index_select(0, index), width, written)
    inverse = _inverse(places, batch * width)
    pairs = Layout(batch, width, starts, mask, inverse, places, lengths_only=layout.lengths_only)
    return replace(pairs, rows=rows, shared=True), pairs


def _places(lengths: Tensor, width: int, total: int) -> tuple[Tensor, Tensor]:
    """First rows (B + 1,) and places (N,) of sequences of these lengths."""
    ends = lengths.cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends])
    sequences = torch.arange(len(lengths), device=lengths.device)
    sequence = sequences.repeat_interleave(lengths, output_size=total)
    return starts, sequence * width + torch.arange(total, device=lengths.device) - starts[sequence]


def _inverse(places: Tensor, size: int) -> Tensor:
    rows = places.new_zeros(size)
    rows[places] = torch.arange(len(places), device=places.device)
    return rows


class _Read(torch.autograd.Function):
    """x[rows] where a row has one place: its gradient is read back from there, nothing is summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return grads[0].index_select(0, places), None, None


class _Write(torch.autograd.Function):
    """x[places]; a place that is not written has gradient 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = x.shape[0]
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        (grad,) = grads
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy_(0, places, grad), None


def _read(x: Tensor, rows: Tensor, places: Tensor | None) -> Tensor:
    if not x.shape[0]:
        # a head that reads no row this time; its parameters stay part of the graph
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])]).index_select(0, rows)
    if places is None or not x.requires_grad or torch.compiler.is_compiling():
        return x.index_select(0, rows)
    return _Read.apply(x, rows, places)


def _write(x: Tensor, places: Tensor) -> Tensor:
    if not x.requires_grad or torch.compiler.is_compiling():
        return x.index_select(0, places)
    return _Write.apply(x, places)
