"""Attention by a table of meetings, in plain PyTorch: what the operators are on a CPU.

The formulas of `reference.py`, and those of the backward pass that `triton.py` derives, with each meeting's
rows copied to places (M, most, H). `meetings.py` says what the table holds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..philox import Seed, keep_at, keep_scale

#: Counters of an element of p: [meeting, head, query, key], with room for this many queries and keys.
COUNTERS = 128


class Dropping(NamedTuple):
    """Dropout on the probabilities."""

    p: float
    seed: Tensor | None
    site: int


class Sides(NamedTuple):
    """Of the queries or the keys of M meetings, at up to `most` places each."""

    read: Tensor
    """(M, most) int64 row that is read, 0 where there is none."""
    written: Tensor
    """(M, most) int64 row that is written."""
    there: Tensor
    """(M, most) bool."""


def sides(table: Tensor, most_queries: int, most_keys: int) -> tuple[Sides, Sides]:
    """The rows of queries and of keys."""
    return _side(table[:, :3], most_queries), _side(table[:, 3:], most_keys)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sides,
    keys: Sides,
    bias: Tensor | None,
    heads: int,
    written: int,
    dropping: Dropping,
) -> Tensor:
    """Rows (R, H) and (U, H) twice to contexts (written, H), 0 where nothing is written."""
    q, k, v = _read(query, queries, heads), _read(key, keys, heads), _read(value, keys, heads)
    p = _probabilities(q, k, keys.there, bias)
    kept = _drop(p, dropping)
    out = (kept.to(value.dtype) @ v).transpose(1, 2).flatten(2)
    return _write(out, queries, written)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sides,
    keys: Sides,
    bias: Tensor | None,
    heads: int,
    written: tuple[int, int],
    dropping: Dropping,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, at the rows that meetings write: (written, H) each."""
    q, k, v = _read(query, queries, heads), _read(key, keys, heads), _read(value, keys, heads)
    do = _read(grad, queries._replace(read=queries.written), heads)
    p = _probabilities(q, k, keys.there, bias)
    dv = _drop(p, dropping).to(do.dtype).transpose(-1, -2) @ do
    dp = _drop((do @ v.transpose(-1, -2)).to(p.dtype), dropping)
    ds = p * (dp - (p * dp).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    ds = ds.to(q.dtype)
    dq, dk = ds @ k, ds.transpose(-1, -2) @ q
    return (
        _write(dq.transpose(1, 2).flatten(2), queries, written[0]),
        _write(dk.transpose(1, 2).flatten(2), keys, written[1]),
        _write(dv.transpose(1, 2).flatten(2), keys, written[1]),
    )


def sum_readers(x: Tensor, starts: Tensor, rows: Tensor) -> Tensor:
    """(N, H) to (R, H): at each row the sum of those that read it."""
    rows = rows[: int(starts[-1])]
    reader = torch.arange(len(starts) - 1, device=x.device).repeat_interleave(starts.diff())
    total = x.new_zeros(len(starts) - 1, x.shape[1], dtype=_wide(x.dtype))
    return total.index_add(0, reader, x[rows].to(total.dtype)).to(x.dtype)


def _side(columns: Tensor, most: int) -> Sides:
    first, to, length = columns.unbind(1)
    places = torch.arange(most, device=columns.device)
    there = places < length[:, None]
    return Sides((first[:, None] + places) * there, (to[:, None] + places) * there, there)


def _read(x: Tensor, side: Sides, heads: int) -> Tensor:
    """Rows (N, H) to (M, heads, most, D), 0 where there is none."""
    if not x.shape[0]:
        x = x.new_zeros(1, x.shape[1])
    return (x[side.read] * side.there[:, :, None]).unflatten(2, (heads, -1)).transpose(1, 2)


def _write(x: Tensor, side: Sides, written: int) -> Tensor:
    """Places (M, most, H) to rows."""
    rows = x.new_zeros(written, x.shape[2])
    rows[side.written[side.there]] = x[side.there]
    return rows


def _probabilities(q: Tensor, k: Tensor, there: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q @ k.transpose(-1, -2)).to(_wide(q.dtype)) / math.sqrt(q.shape[-1])
    if bias is not None:
        added = bias.to(scores.dtype) * (1e30 if bias.dtype is torch.float16 else 1.0)
        most = there.shape[1]
        # a table of bias may be wider or narrower than the longest meeting; what is missing is closed below
        added = torch.nn.functional.pad(added[:, :most], (0, max(0, most - added.shape[1])))
        scores = scores + added[:, None, None, :]
    scores = scores.masked_fill(~there[:, None, None, :], -torch.inf)
    # without any key nothing is gathered
    return torch.softmax(scores, -1).masked_fill(~there.any(1)[:, None, None, None], 0.0)


def _drop(p: Tensor, dropping: Dropping) -> Tensor:
    if dropping.p == 0.0:
        return p
    assert dropping.seed is not None
    meetings, heads, queries, keys = (torch.arange(n, device=p.device) for n in p.shape)
    counters = (meetings[:, None] * p.shape[1] + heads)[:, :, None] * COUNTERS + queries
    counters = counters[..., None] * COUNTERS + keys
    return p * keep_at(Seed(dropping.seed, dropping.site), counters, dropping.p) * keep_scale(dropping.p)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
