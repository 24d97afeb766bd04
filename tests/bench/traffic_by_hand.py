"""Bytes of calls small enough to count by hand, printed as JSON. Run with TRITON_INTERPRET=1."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from lxmert_fast.bench.operators import LAUNCHES, named_arguments
from lxmert_fast.bench.traffic import counting
from lxmert_fast.kernels.bias_gelu import op as gelu_op
from lxmert_fast.kernels.dropout_add_layer_norm import op as norm_op
from lxmert_fast.kernels.launch import listening
from lxmert_fast.kernels.layout import dense, shared
from lxmert_fast.kernels.meetings import between, crossing
from lxmert_fast.kernels.rows import repeat_rows, sum_readers
from lxmert_fast.kernels.self_attention import op as attention_op
from lxmert_fast.kernels.text_embedding import op as text_op
from lxmert_fast.kernels.visual_embedding import op as visual_op

H, HEADS, P = 48, 3, 0.1
SEED = torch.tensor([3])
#: Two texts of 3 and 5 positions: 8 rows of 8 columns, that meet themselves.
TABLE = torch.tensor([[0, 0, 3, 0, 0, 3], [3, 3, 5, 3, 3, 5]])


def rows(number: int, width: int = H) -> Tensor:
    return torch.zeros(number, width, dtype=torch.float16)


def ones(width: int = H) -> Tensor:
    return torch.ones(width, dtype=torch.float16)


def bytes_of(call: Callable[..., object], *arguments: object) -> dict[str, int]:
    with counting() as counted:
        call(*arguments)
    return dict(counted)


def norm(number: int, split: int, p: float) -> list[dict[str, int]]:
    x, one, stats = rows(number), ones(), torch.ones(number)
    two = one if split < number else None
    forward = x, x, one, one, one, two, two, two, SEED, split, 1e-12, 0, p, False
    backward = x, ones(0), x, ones(0), stats, stats, one, one, two, two, SEED, split, 0, p
    return [bytes_of(norm_op.dropout_add_layer_norm, *forward), bytes_of(norm_op.backward, *backward)]


def attention(heads: int) -> list[dict[str, int]]:
    """4 columns a head."""
    rest = TABLE, None, None, None, None, 0, 0.0, heads, 8, 5, 5
    backward = torch.ops.lxmert_fast.self_attention_backward
    qkv, grad = rows(8, 3 * 4 * heads), rows(8, 4 * heads)
    return [bytes_of(attention_op.self_attention, qkv, *rest), bytes_of(backward, grad, qkv, *rest)]


def gelu(width: int) -> list[dict[str, int]]:
    x, bias = rows(20, width), ones(width)
    forward = bytes_of(gelu_op.bias_gelu, x, bias, bias, 7)
    return [forward, bytes_of(gelu_op.backward, x, x, bias, bias, 7, True)]


def launches() -> dict[str, list[int]]:
    """Of each operator: Triton's launches, and those of `operators.py`."""
    found: dict[str, list[int]] = {}

    def compare(function: object, *arguments: object) -> None:
        started: list[str] = []
        with listening(lambda name, grid: started.append(name)):
            function(*arguments)  # type: ignore[operator]
        overload = getattr(function, "_opoverload", function)
        overload = getattr(overload, "default", overload)
        name = overload._schema.name
        given = named_arguments(overload, arguments, {})
        found[f"{name} {len(found)}"] = [len(started), LAUNCHES[name](given)]

    texts, images = dense(4, 3, None, SEED.device), dense(2, 5, None, SEED.device)
    index = torch.tensor([0, 0, 1, 1])
    reading = shared(images, index, 20)[0]
    crossed, met = crossing(texts, reading, 12, 10), between(texts, reading, 12, 10)
    x, one, stats = rows(12), ones(), torch.ones(4, 12)
    for readers in (crossed.query_readers, None):
        given = (readers.starts, readers.rows) if readers else (None, None)
        rest = crossed.table, None, *given, SEED, 0, P, HEADS, 32, 5, 5
        for name in ("self_attention", "cross_attention"):
            if readers is not None:
                compare(getattr(attention_op, name), rows(22, 3 * H), *rest)
            compare(getattr(torch.ops.lxmert_fast, f"{name}_backward"), rows(32), rows(22, 3 * H), *rest)
    key_readers = met.key_readers
    assert key_readers is not None
    rest = met.table, None, None, None, key_readers.starts, key_readers.rows, SEED, 0, P, HEADS, 12, 20, 3, 5
    compare(attention_op.attention, x, rows(10, 2 * H), *rest)
    compare(attention_op.attention_backward, x, x, rows(10, 2 * H), *rest)
    norm_rest = x, one, one, one, None, None, None, SEED, 12, 1e-12, 0, P, False
    compare(norm_op.dropout_add_layer_norm, x, *norm_rest)
    same = ones(0), x, ones(0), stats[0], stats[0], one, one, None, None, SEED, 12, 0, P
    compare(norm_op.backward, x, *same)
    for bias in (one, None):
        compare(gelu_op.bias_gelu, x, bias, None, 12)
        compare(gelu_op.backward, x, x, bias, None, 12, True)
    box, weight = rows(12, 4), rows(H, 4)
    compare(visual_op.visual_embedding, x, one, box, weight, *[one] * 5, SEED, 1e-12, 0, P)
    compare(visual_op.backward, x, x, one, box, weight, one, one, one, stats, SEED, 0, P)
    ids = torch.arange(12)
    compare(text_op.text_embedding, x, x, x, one, one, ids, ids, None, SEED, 0, 1e-12, 0, P)
    compare(text_op.backward, x, x, x, x, one, ids, ids, None, stats[0], stats[0], SEED, 0, 0, P)
    compare(sum_readers, x, torch.tensor([0, 12]), ids)
    # PyTorch's own lookup, none of Triton's launches
    compare(repeat_rows, rows(1), torch.zeros(12, dtype=torch.int64), torch.tensor([0, 12]), ids)
    return found


if __name__ == "__main__":
    content = {
        "norm": norm(5, 5, 0.0),
        "dropping norm of two streams": norm(5, 2, P),
        "attention": attention(2),
        "attention of one head": attention(1),
        "gelu": gelu(512),
        "gelu of half the columns": gelu(256),
        "readers": bytes_of(sum_readers, rows(5), torch.tensor([0, 2, 5]), torch.arange(5)),
        "launches": launches(),
    }
    print(json.dumps(content))
