"""text_embedding as a torch operator: schema, checks, shapes, gradient, and who computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from ..checks import check_device, check_dropout, check_like, check_rows, check_vectors, wrong
from ..dispatch import runs_triton
from ..launch import in_order
from ..philox import Seed, keep_mask, keep_scale
from ..statistics import statistics


@custom_op("lxmert_fast::text_embedding", mutates_args=())
def text_embedding(
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    shift: Tensor,
    ids: Tensor,
    positions: Tensor,
    segments: Tensor | None,
    seed: Tensor | None,
    padding: int,
    eps: float,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dropout(LayerNorm(word[ids] + position[positions] + segment[segments])).

    Args:
        word, position, segment: tables (V, H), (P, H), (2, H).
        weight, shift: (H,) of the LayerNorm.
        ids, positions, segments: (N,) int64; segments None for 0.
        padding: the row of each table that gets no gradient; -1 for none.
        seed, site, p: dropout.

    Returns:
        y (N, H); mean and 1 / deviation (N,) in fp32, or fp64 with the tables.

    Raises:
        ValueError: an argument that does not fit.
    """
    name = "text_embedding"
    check_rows(name, "word", word)
    check_rows(name, "position", position, word.shape[1])
    check_rows(name, "segment", segment, word.shape[1])
    check_like(name, word, position=position, segment=segment)
    check_vectors(name, word, weight=weight, shift=shift)
    for argument, index in (("ids", ids), ("positions", positions), ("segments", segments)):
        if index is not None and (index.dtype != torch.int64 or index.shape != ids.shape or index.dim() != 1):
            found = f"{index.dtype} of shape {tuple(index.shape)}"
            raise wrong(name, argument, found, f"torch.int64 of shape ({ids.numel()},)")
    check_device(name, word, ids=ids, positions=positions, segments=segments)
    check_dropout(name, word, p, seed)
    if runs_triton(word):
        from .triton import launch_forward

        tables = word.contiguous(), position.contiguous(), segment.contiguous()
        norm = weight.contiguous(), shift.contiguous()
        return launch_forward(tables, _contiguous(ids, positions, segments), *norm, eps, seed, site, p)
    total = _looked_up(word, position, segment, ids, positions, segments)
    mean, rstd = statistics(total, eps)
    y = (total - mean) * rstd * weight + shift
    if p > 0.0:
        assert seed is not None
        y = y * keep_mask(Seed(seed, site), 0, tuple(y.shape), p) * keep_scale(p)
    return y.to(word.dtype), mean[:, 0], rstd[:, 0]


@text_embedding.register_fake
def _(word: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows = arguments[4].shape[0]
    mean = word.new_empty(rows, dtype=torch.promote_types(torch.float32, word.dtype))
    return word.new_empty(rows, word.shape[1]), mean, torch.empty_like(mean)


@custom_op("lxmert_fast::text_embedding_backward", mutates_args=())
def backward(
    dy: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    ids: Tensor,
    positions: Tensor,
    segments: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    padding: int,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the three tables, and (2, H): dweight, dshift."""
    if runs_triton(dy):
        from .triton import launch_backward

        tables = word.contiguous(), position.contiguous(), segment.contiguous()
        indices = _contiguous(ids, positions, segments)
        ds, sums = launch_backward(
            dy.contiguous(), tables, indices, weight.contiguous(), mean, rstd, seed, site, p
        )
    else:
        total = _looked_up(word, position, segment, ids, positions, segments)
        normal = (total - mean[:, None]) * rstd[:, None]
        wide = dy.to(total.dtype)
        if p > 0.0:
            assert seed is not None
            wide = wide * keep_mask(Seed(seed, site), 0, tuple(dy.shape), p) * keep_scale(p)
        g = wide * weight
        ds = (g - g.mean(1, keepdim=True) - normal * (g * normal).mean(1, keepdim=True)) * rstd[:, None]
        ds = ds.to(dy.dtype)
        sums = torch.stack([(wide * normal).sum(0), wide.sum(0)]).to(weight.dtype)
    spread = torch.ops.aten.embedding_dense_backward
    dword = spread(ds, ids, len(word), padding, False)
    dposition = spread(ds, positions, len(position), padding, False)
    if segments is not None:
        dsegment = spread(ds, segments, len(segment), padding, False)
    else:
        dsegment = torch.zeros_like(segment)
        if padding != 0:
            dsegment[0] = ds.sum(0)
    return dword, dposition, dsegment, sums


@backward.register_fake
def _(dy: Tensor, word: Tensor, position: Tensor, segment: Tensor, weight: Tensor, *rest: Any) -> Any:
    tables = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (word, position, segment))
    return *tables, weight.new_empty(2, weight.shape[0])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    word, position, segment, weight, _, ids, positions, segments, seed, padding, _, site, p = inputs
    _, mean, rstd = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(word, position, segment, weight, ids, positions, segments, mean, rstd, seed)
    ctx.numbers = padding, site, p


def _gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return (None,) * 13
    dword, dposition, dsegment, sums = backward(dy, *ctx.saved_tensors, *ctx.numbers)
    return dword, dposition, dsegment, sums[0], sums[1], *[None] * 8


text_embedding.register_autograd(_gradient, setup_context=_keep)


def _contiguous(
    ids: Tensor, positions: Tensor, segments: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return ids.contiguous(), positions.contiguous(), in_order(segments)


def _looked_up(
    word: Tensor, position: Tensor, segment: Tensor, ids: Tensor, positions: Tensor, segments: Tensor | None
) -> Tensor:
    """The sum of the three vectors, in fp32 at least."""
    wide = torch.promote_types(torch.float32, word.dtype)
    of_segments = segment[:1] if segments is None else segment[segments]
    return word[ids].to(wide) + position[positions].to(wide) + of_segments.to(wide)
