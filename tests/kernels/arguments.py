"""Arguments of every operator, several sets of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from drawn import new_seed
from operations import readers_of
from standing import CPU, randn
from torch import Tensor

from lxmert_fast.kernels.bias_gelu import op as gelu_op
from lxmert_fast.kernels.dropout_add_layer_norm import op as norm_op
from lxmert_fast.kernels.layout import Layout, dense, packed, shared
from lxmert_fast.kernels.meetings import between, crossing, within
from lxmert_fast.kernels.rows import repeat_rows
from lxmert_fast.kernels.self_attention import additive_mask
from lxmert_fast.kernels.self_attention import op as attention_op
from lxmert_fast.kernels.text_embedding import op as text_op
from lxmert_fast.kernels.visual_embedding import op as visual_op

SEED = new_seed().value
H = 16


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(*shape).to(dtype).requires_grad_()


def texts(kind: str) -> Layout:
    if kind == "masked":
        return dense(2, 3, additive_mask(torch.tensor([[1, 0.5, 0], [0, 0, 0]]), torch.float32), CPU)
    keep = torch.tensor([[True, True, True], [True, False, False]])
    return packed(keep, None, torch.float32, kept=4, longest=3)


OBJECTS = dense(2, 5, None, CPU)
SHARED = shared(OBJECTS, torch.tensor([1, 1]), 10)[0]

Arguments = tuple[Any, ...]


def own(kind: str, p: float) -> Arguments:
    met = within(texts(kind))
    return (
        leaf(met.written[0], 3 * H), met.table, met.bias, None, None, SEED if p else None, 3, p, 2,
        met.written[0], met.most_queries, met.most_keys,
    )  # fmt: skip


def crossed(objects: Layout, p: float) -> Arguments:
    layout = texts("packed")
    met = crossing(layout, objects, layout.written, 10)
    readers = met.query_readers
    return (
        leaf(layout.written + 10, 3 * H), met.table, met.bias, readers and readers.starts,
        readers and readers.rows, SEED if p else None, 3, p, 2, met.written[0], met.most_queries,
        met.most_keys,
    )  # fmt: skip


def attended(objects: Layout, p: float) -> Arguments:
    layout = texts("packed")
    met = between(layout, objects, layout.written, 10)
    readers = met.key_readers
    return (
        leaf(layout.written, H), leaf(10, 2 * H), met.table, met.bias, None, None,
        readers and readers.starts, readers and readers.rows, SEED if p else None, 3, p, 2, *met.written,
        met.most_queries, met.most_keys,
    )  # fmt: skip


def normed(two: bool, bias: bool, p: float, keep_sum: bool, dtype: torch.dtype = torch.float32) -> Arguments:
    second = [leaf(H), leaf(H), leaf(H) if bias else None] if two else [None] * 3
    return (
        leaf(6, H, dtype=dtype), leaf(6, H), leaf(H), leaf(H), leaf(H) if bias else None, *second,
        SEED if p else None, 4 if two else 6, 1e-12, 3, p, keep_sum,
    )  # fmt: skip


def read(segments: bool, p: float) -> Arguments:
    ids = torch.tensor([0, 3, 1])
    return (
        leaf(5, H), leaf(4, H), leaf(2, H), leaf(H), leaf(H), ids, ids % 4, ids % 2 if segments else None,
        SEED if p else None, 0, 1e-12, 3, p,
    )  # fmt: skip


def seen(bias: bool, p: float) -> Arguments:
    return (
        leaf(6, H), leaf(H) if bias else None, leaf(6, 4), leaf(H, 4), *(leaf(H) for _ in range(5)),
        SEED if p else None, 1e-12, 3, p,
    )  # fmt: skip


def repeated() -> Arguments:
    source = torch.tensor([2, 0, 2])
    return leaf(4, H), source, *readers_of(source, 4)


FORWARD: dict[str, tuple[Any, Callable[[], Arguments]]] = {
    "self attention": (attention_op.self_attention, lambda: own("packed", 0.0)),
    "self attention, masked, dropout": (attention_op.self_attention, lambda: own("masked", 0.2)),
    "cross attention": (attention_op.cross_attention, lambda: crossed(OBJECTS, 0.0)),
    "cross attention, shared, dropout": (attention_op.cross_attention, lambda: crossed(SHARED, 0.2)),
    "attention": (attention_op.attention, lambda: attended(OBJECTS, 0.0)),
    "attention, shared, dropout": (attention_op.attention, lambda: attended(SHARED, 0.2)),
    "norm": (norm_op.dropout_add_layer_norm, lambda: normed(False, False, 0.0, False)),
    "norm, two streams": (norm_op.dropout_add_layer_norm, lambda: normed(True, True, 0.2, True)),
    "norm, bias": (norm_op.dropout_add_layer_norm, lambda: normed(False, True, 0.2, False)),
    "norm, half": (norm_op.dropout_add_layer_norm, lambda: normed(True, True, 0.0, True, torch.bfloat16)),
    "gelu": (gelu_op.bias_gelu, lambda: (leaf(6, H), None, None, 6)),
    "gelu, bias": (gelu_op.bias_gelu, lambda: (leaf(6, H), leaf(H), None, 6)),
    "gelu, two streams": (gelu_op.bias_gelu, lambda: (leaf(6, H), leaf(H), leaf(H), 2)),
    "text": (text_op.text_embedding, lambda: read(True, 0.0)),
    "text, one segment, dropout": (text_op.text_embedding, lambda: read(False, 0.2)),
    "regions": (visual_op.visual_embedding, lambda: seen(True, 0.0)),
    "regions, no bias, dropout": (visual_op.visual_embedding, lambda: seen(False, 0.2)),
    "repeated rows": (repeat_rows, repeated),
}
