"""Attention as torch operators: schema, checks, shapes, gradient, and who computes it.

    self_attention, cross_attention   from one buffer (R, 3H) of query, key and value side by side
    attention                         from queries (R, H) to keys and values (U, 2H)

All three are the same attention by a table of meetings (`meetings.py`); self and cross attention differ in
the table, and have names of their own so that profiles tell them apart. For backward the inputs are kept and
nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_autograd

from ..checks import FLOATS, check_device, check_dropout, check_like, check_readers, check_rows, wrong
from ..dispatch import MOST_KEYS, runs_triton
from ..launch import in_order
from . import tabled


@custom_op("lxmert_fast::attention", mutates_args=())
def attention(
    query: Tensor,
    key_value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    query_starts: Tensor | None,
    query_readers: Tensor | None,
    key_starts: Tensor | None,
    key_readers: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    written_queries: int,
    written_keys: int,
    most_queries: int,
    most_keys: int,
) -> Tensor:
    """Contexts (written_queries, H) of queries (R, H) that meet keys and values (U, 2H) by a table.

    Args:
        table, bias, query_starts to key_readers, written_*, most_*: the fields of `Meetings`.
        seed, site, p: dropout of the probabilities.

    Raises:
        ValueError: an argument that does not fit.
    """
    check_rows("attention", "query", query)
    check_rows("attention", "key_value", key_value, 2 * query.shape[1])
    check_like("attention", query, key_value=key_value)
    _check("attention", query, table, bias, seed, p, heads, most_queries, most_keys)
    for side, starts, readers, rows, there in (
        ("query", query_starts, query_readers, query, written_queries),
        ("key", key_starts, key_readers, key_value, written_keys),
    ):
        names = f"{side}_starts", f"{side}_readers", "written_queries" if side == "query" else "written_keys"
        check_device("attention", query, **{names[0]: starts, names[1]: readers})
        check_readers("attention", names, starts, readers, len(rows), there)
    key, value = key_value.chunk(2, 1)
    written, most = (written_queries, written_keys), (most_queries, most_keys)
    _check_table("attention", table, (len(query), len(key)), written, most)
    return _forward(query, key, value, table, bias, seed, site, p, heads, written_queries, most)


@attention.register_fake
def _(query: Tensor, *arguments: Any) -> Tensor:
    return query.new_empty(arguments[11], query.shape[1])


@custom_op("lxmert_fast::attention_backward", mutates_args=())
def attention_backward(
    grad: Tensor,
    query: Tensor,
    key_value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    query_starts: Tensor | None,
    query_readers: Tensor | None,
    key_starts: Tensor | None,
    key_readers: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    written_queries: int,
    written_keys: int,
    most_queries: int,
    most_keys: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of queries (R, H) and of keys and values (U, 2H)."""
    size = query.shape[1]
    dq = grad.new_empty(written_queries, size)
    dkv = grad.new_empty(written_keys, 2 * size)
    key, value = key_value.chunk(2, 1)
    _backward(
        grad, query, key, value, table, bias, seed, site, p, heads, (most_queries, most_keys),
        (dq, *dkv.chunk(2, 1)),
    )  # fmt: skip
    return _summed(dq, query_starts, query_readers), _summed(dkv, key_starts, key_readers)


@attention_backward.register_fake
def _(grad: Tensor, query: Tensor, key_value: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query, memory_format=torch.contiguous_format), torch.empty_like(
        key_value, memory_format=torch.contiguous_format
    )


def _keep_for_attention(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:9])
    ctx.numbers = inputs[9:]


def _gradient_of_attention(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *attention_backward(grad, *ctx.saved_tensors, *ctx.numbers), *[None] * 14


register_autograd("lxmert_fast::attention", _gradient_of_attention, setup_context=_keep_for_attention)


def _define(name: str) -> Any:
    """The operator of one buffer, under a name."""

    @custom_op(f"lxmert_fast::{name}", mutates_args=())
    def forward(
        qkv: Tensor,
        table: Tensor,
        bias: Tensor | None,
        starts: Tensor | None,
        readers: Tensor | None,
        seed: Tensor | None,
        site: int,
        p: float,
        heads: int,
        written: int,
        most_queries: int,
        most_keys: int,
    ) -> Tensor:
        check_rows(name, "qkv", qkv)
        if qkv.shape[1] % 3:
            raise wrong(name, "qkv", f"of shape {tuple(qkv.shape)}", "(rows, 3 H)")
        query, key, value = qkv.chunk(3, 1)
        _check(name, query, table, bias, seed, p, heads, most_queries, most_keys)
        check_device(name, qkv, starts=starts, readers=readers)
        check_readers(name, ("starts", "readers", "written"), starts, readers, len(qkv), written)
        most = most_queries, most_keys
        _check_table(name, table, (len(qkv),) * 2, (written,) * 2, most)
        return _forward(query, key, value, table, bias, seed, site, p, heads, written, most)

    @custom_op(f"lxmert_fast::{name}_backward", mutates_args=())
    def backward(
        grad: Tensor,
        qkv: Tensor,
        table: Tensor,
        bias: Tensor | None,
        starts: Tensor | None,
        readers: Tensor | None,
        seed: Tensor | None,
        site: int,
        p: float,
        heads: int,
        written: int,
        most_queries: int,
        most_keys: int,
    ) -> Tensor:
        into = grad.new_empty(written, qkv.shape[1])
        query, key, value = qkv.chunk(3, 1)
        _backward(
            grad, query, key, value, table, bias, seed, site, p, heads, (most_queries, most_keys),
            into.chunk(3, 1),
        )  # fmt: skip
        return _summed(into, starts, readers)

    @forward.register_fake
    def _(qkv: Tensor, *arguments: Any) -> Tensor:
        return qkv.new_empty(arguments[8], qkv.shape[1] // 3)

    @backward.register_fake
    def _(grad: Tensor, qkv: Tensor, *arguments: Any) -> Tensor:
        return torch.empty_like(qkv, memory_format=torch.contiguous_format)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.numbers = inputs[6:]

    def gradient(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return backward(grad, *ctx.saved_tensors, *ctx.numbers), *[None] * 11

    register_autograd(f"lxmert_fast::{name}", gradient, setup_context=keep)
    return forward


self_attention = _define("self_attention")
cross_attention = _define("cross_attention")


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    written: int,
    most: tuple[int, int],
) -> Tensor:
    if runs_triton(query):
        from .triton import launch_forward

        query, key, value = _readable(query, key, value)
        table, bias = table.contiguous(), in_order(bias)
        return launch_forward(query, key, value, table, bias, seed, site, p, heads, written, most)
    sides = tabled.sides(table, *most)
    dropping = tabled.Dropping(p, seed, site)
    return tabled.forward(query, key, value, *sides, bias, heads, written, dropping)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    most: tuple[int, int],
    into: tuple[Tensor, ...],
) -> None:
    if runs_triton(query):
        from .triton import launch_backward

        query, key, value = _readable(query, key, value)
        table, bias = table.contiguous(), in_order(bias)
        (grad,) = _readable(grad)
        dq, dk, dv = into
        launch_backward(grad, query, key, value, table, bias, seed, site, p, heads, most, (dq, dk, dv))
        return
    sides = tabled.sides(table, *most)
    dropping = tabled.Dropping(p, seed, site)
    written = len(into[0]), len(into[1])
    grads = tabled.backward(grad, query, key, value, *sides, bias, heads, written, dropping)
    for place, of in zip(into, grads, strict=True):
        place.copy_(of)


def _summed(x: Tensor, starts: Tensor | None, readers: Tensor | None) -> Tensor:
    if starts is None or readers is None:
        return x
    if runs_triton(x):
        from .triton import launch_sum_readers

        return launch_sum_readers(x, starts.contiguous(), readers.contiguous())
    return tabled.sum_readers(x, starts, readers)


def _readable(*tensors: Tensor) -> list[Tensor]:
    """Tensors whose rows a kernel can read: neighbouring columns are neighbours, key and value alike."""
    if (
        all(x.stride(1) == 1 for x in tensors)
        and tensors[-1].stride() == tensors[-min(2, len(tensors))].stride()
    ):
        return list(tensors)
    return [x.contiguous() for x in tensors]


def _check(
    operator: str,
    query: Tensor,
    table: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    p: float,
    heads: int,
    most_queries: int,
    most_keys: int,
) -> None:
    if heads < 1 or query.shape[1] % heads:
        raise wrong(operator, "heads", heads, f"a divisor of the width {query.shape[1]}")
    if query.shape[1] // heads > 128:
        raise wrong(operator, "heads", f"{heads} of width {query.shape[1] // heads}", "widths up to 128")
    for argument, most in (("most_queries", most_queries), ("most_keys", most_keys)):
        if not 1 <= most <= MOST_KEYS:
            raise wrong(operator, argument, most, f"1 to {MOST_KEYS} positions or boxes")
    if table.dim() != 2 or table.shape[1] != 6 or table.dtype != torch.int64:
        found = f"{table.dtype} of shape {tuple(table.shape)}"
        raise wrong(operator, "table", found, "torch.int64 of shape (meetings, 6)")
    if bias is not None and bias.dtype not in FLOATS:
        raise wrong(operator, "bias", bias.dtype, "a float dtype")
    if bias is not None and (bias.dim() != 2 or len(bias) != len(table) or bias.shape[1] < most_keys):
        found = f"of shape {tuple(bias.shape)}"
        raise wrong(operator, "bias", found, f"({len(table)}, {most_keys} or more)")
    check_device(operator, query, table=table, bias=bias)
    check_dropout(operator, query, p, seed)


def _check_table(
    operator: str,
    table: Tensor,
    read: tuple[int, int],
    written: tuple[int, int],
    most: tuple[int, int],
) -> None:
    """Rows that exist. A table on a GPU was checked before it was sent there: reading it would wait."""
    if table.device.type != "cpu" or not len(table):
        return
    longest = table[:, [2, 5]].amax(0).tolist()
    for name, length, limit in zip(("queries", "keys"), longest, most, strict=True):
        if length > limit:
            raise wrong(operator, f"most_{name}", limit, f"{length}, the longest in the table, or more")
    starts, lengths = table[:, [0, 1, 3, 4]], table[:, [2, 2, 5, 5]]
    bounds = torch.tensor([read[0], written[0], read[1], written[1]])
    bad = (lengths < 0) | ((lengths > 0) & ((starts < 0) | (starts + lengths > bounds)))
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        name = ("query_from", "query_to", "key_from", "key_to")[column]
        first, length = int(starts[row, column]), int(lengths[row, column])
        raise wrong(
            operator,
            f"table row {row}, {name}",
            f"{first} with a length of {length}",
            f"rows within the {int(bounds[column])} that there are",
        )
