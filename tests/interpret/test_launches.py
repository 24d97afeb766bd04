"""How many kernels each operation launches, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drawn import new_seed
from standing import CPU, randn
from torch import Tensor

from lxmert_fast.kernels.bias_gelu import bias_gelu, bias_gelu_linear
from lxmert_fast.kernels.cross_attention import cross_attention
from lxmert_fast.kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm
from lxmert_fast.kernels.launch import listening
from lxmert_fast.kernels.layout import dense, shared
from lxmert_fast.kernels.rows import repeat_rows
from lxmert_fast.kernels.self_attention import attention, self_attention
from lxmert_fast.kernels.text_embedding import embed_text
from lxmert_fast.kernels.visual_embedding import embed_regions

TEXTS, OBJECTS = dense(2, 3, None, CPU), dense(2, 5, None, CPU)
TWICE = torch.tensor([1, 1])
SHARED_TEXTS = shared(TEXTS, TWICE, 6)[0]
SHARED_OBJECTS = shared(OBJECTS, TWICE, 10)[0]
SEED = new_seed()


def leaf(*shape: int) -> Tensor:
    return randn(*shape).float().requires_grad_()


def norm(second: bool) -> Tensor:
    other = Parameters(leaf(32), leaf(32), leaf(32)) if second else None
    return dropout_add_layer_norm(
        leaf(6, 32), leaf(6, 32), leaf(32), leaf(32), bias=leaf(32), second=other, split=4,
        dropout_p=0.1, seed=SEED,
    )  # fmt: skip


def text() -> Tensor:
    ids = torch.tensor([1, 2])
    tables = leaf(5, 32), leaf(4, 32), leaf(2, 32)
    return embed_text(tables, (ids, ids, None), (leaf(32), leaf(32)), padding=0, dropout_p=0.1, seed=SEED)


def regions() -> Tensor:
    norms = (leaf(32), leaf(32)), (leaf(32), leaf(32))
    return embed_regions(leaf(6, 32), leaf(32), leaf(6, 4), (leaf(32, 4), leaf(32)), *norms)


def repeated() -> Tensor:
    return repeat_rows(leaf(2, 32), torch.tensor([1, 1]), torch.tensor([0, 0, 2]), torch.tensor([0, 1]))


ATTENTION = (["attention_forward"], ["attention_backward"])
SUMMED = (["attention_forward"], ["attention_backward", "sum_readers"])
NORM = (["norm_forward"], ["norm_backward", "sum_partials"])
GELU = (["gelu_forward"], ["gelu_backward", "sum_partials"])
CASES: dict[str, tuple[Callable[[], Tensor], tuple[list[str], list[str]]]] = {
    "self attention": (lambda: self_attention(leaf(6, 96), TEXTS, 2)[0], ATTENTION),
    "cross attention": (lambda: cross_attention(leaf(16, 96), 6, TEXTS, OBJECTS, 2).context, ATTENTION),
    "cross attention, shared images": (
        lambda: cross_attention(leaf(16, 96), 6, TEXTS, SHARED_OBJECTS, 2).context, SUMMED
    ),
    "cross attention, both shared": (
        lambda: cross_attention(leaf(16, 96), 6, SHARED_TEXTS, SHARED_OBJECTS, 2).context, SUMMED
    ),
    "attention": (lambda: attention(leaf(6, 32), leaf(10, 64), TEXTS, OBJECTS, 2)[0], ATTENTION),
    "attention, shared keys": (
        lambda: attention(leaf(6, 32), leaf(10, 64), TEXTS, SHARED_OBJECTS, 2)[0], SUMMED
    ),
    "attention, both shared": (
        lambda: attention(leaf(6, 32), leaf(10, 64), SHARED_TEXTS, SHARED_OBJECTS, 2)[0],
        (SUMMED[0], [*SUMMED[1], "sum_readers"]),
    ),
    "norm, one stream": (lambda: norm(False), NORM),
    "norm, two streams": (lambda: norm(True), NORM),
    "gelu": (lambda: bias_gelu(leaf(6, 32), leaf(32)), GELU),
    "gelu without bias": (lambda: bias_gelu(leaf(6, 32)), (GELU[0], GELU[1][:1])),
    "gelu and its product": (
        lambda: bias_gelu_linear(leaf(6, 32), (leaf(32), leaf(32)), (leaf(8, 32), leaf(8, 32)), 4), GELU
    ),
    "text embedding": (text, (["text_forward"], ["text_backward", "sum_partials"])),
    "visual embedding": (regions, (["visual_forward"], ["visual_backward", "sum_partials"])),
    "repeated rows": (repeated, ([], ["sum_readers"])),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_launches(name: str):
    operation, (forward, backward) = CASES[name]
    launched: list[str] = []
    with listening(lambda kernel, grid: launched.append(kernel)):
        output = operation()
        assert launched == forward
        launched.clear()
        output.sum().backward()
        assert launched == backward


def test_nothing_is_launched_for_nothing():
    launched: list[str] = []
    with listening(lambda kernel, grid: launched.append(kernel)):
        self_attention(torch.zeros(0, 96), dense(0, 3, None, CPU), 2)
        dropout_add_layer_norm(torch.zeros(0, 32), torch.zeros(0, 32), torch.ones(32), torch.zeros(32))
    assert launched == []
