"""Counts of models small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lxmert_fast.bench.counts import Counts, count, count_step, count_workload, stored_bytes
from lxmert_fast.bench.workloads import config_for, workload
from lxmert_fast.kernels.bias_gelu import bias_gelu
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.kernels.dropout_add_layer_norm import dropout_add_layer_norm
from lxmert_fast.kernels.dropout_add_layer_norm.invertible import invertible
from lxmert_fast.kernels.layout import dense, shared
from lxmert_fast.kernels.meetings import between, within
from lxmert_fast.kernels.rows import repeat_rows
from lxmert_fast.kernels.self_attention import attention, self_attention
from lxmert_fast.kernels.text_embedding.op import text_embedding

FLOAT = 4


@torch.no_grad()
def test_one_linear_layer():
    layer, x = nn.Linear(8, 16), torch.randn(4, 8)
    counts = count(lambda: layer(x))
    assert counts.flops == 2 * 4 * 8 * 16
    assert counts.operations == 1
    assert counts.bytes_moved == FLOAT * (4 * 8 + 8 * 16 + 16 + 4 * 16)
    assert counts.peak_bytes == FLOAT * 4 * 16
    assert counts.unknown == []


@torch.no_grad()
def test_linear_layers_and_attention_of_the_cpu_s_own():
    x, weight = torch.randn(4, 8), torch.randn(16, 8)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    counts = count(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
    assert (counts.flops, counts.unknown) == (2 * 4 * 8 * 16, [])
    assert counts.bytes_moved == FLOAT * (4 * 8 + 8 * 16 + 4 * 16)
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    attention = count(lambda: nn.functional.scaled_dot_product_attention(query, key, key))
    assert attention.flops == 2 * 2 * (2 * 3) * 5 * 7 * 8


def test_an_operation_of_no_known_cost_is_named():
    @torch.library.custom_op("bench_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert count(lambda: twice(torch.ones(3))).unknown == ["bench_test::twice"]


def backward_of(y: torch.Tensor) -> Counts:
    grad = torch.ones_like(y)
    return count(lambda: torch.autograd.backward(y, grad))


def test_an_operator_of_this_library_is_one_operation():
    """With the launches that its kernels make, and the bytes of its arguments and results."""
    x, residual = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8)
    weight, shift, bias = torch.ones(8), torch.zeros(8), torch.zeros(8)
    # whether its output is enough for backward is asked once for many calls
    invertible(weight, shift, x.dtype)
    made = []
    with implementation("operator"):
        counts = count(lambda: made.append(dropout_add_layer_norm(x, residual, weight, shift, bias=bias)))
        activation = count(lambda: bias_gelu(x.detach(), bias))
    assert (counts.operations, counts.launches, counts.unknown) == (1, 1, [])
    assert counts.bytes_moved == FLOAT * (3 * 6 * 8 + 3 * 8 + 2 * 6)
    assert (activation.launches, activation.bytes_moved) == (1, FLOAT * (2 * 6 * 8 + 8))
    backward = backward_of(made[0])
    assert (backward.operations, backward.launches) == (1, 2)


def test_attention_s_products_are_of_rows_that_meet():
    images = dense(2, 5, None, torch.device("cpu"))
    reading, _ = shared(images, torch.tensor([0, 0, 1]), 15)
    texts = dense(3, 4, None, torch.device("cpu"))
    met, texts = between(texts, reading, 12, 10), replace(texts, meetings=within(texts))
    qkv, query, key_value = (
        torch.randn(*shape, requires_grad=True) for shape in ((12, 24), (12, 8), (10, 16))
    )
    made = []
    with implementation("operator"):
        own = count(lambda: made.append(self_attention(qkv, texts, 2)[0]))
        cross = count(lambda: made.append(attention(query, key_value, texts, reading, 2, meetings=met)[0]))
    assert (own.flops, own.launches, own.unknown) == (2 * 2 * 3 * 4 * 4 * 8, 1, [])
    assert (cross.flops, cross.launches) == (2 * 2 * 3 * 4 * 5 * 8, 1)
    of_own, of_cross = map(backward_of, made)
    assert (of_own.flops, of_own.launches) == (own.flops * 5 // 2, 1)
    # the images' rows are summed over the pairs that read them
    assert (of_cross.flops, of_cross.launches) == (cross.flops * 5 // 2, 2)


@torch.no_grad()
def test_an_operator_that_looks_up_moves_the_rows_that_it_fetches():
    word, position, segment = torch.randn(1000, 8), torch.randn(20, 8), torch.randn(2, 8)
    one, ids = torch.ones(8), torch.tensor([1, 2, 3])
    tables = word, position, segment, one, one
    embedding = count(lambda: text_embedding(*tables, ids, ids, None, None, 0, 1e-12, 0, 0.0))
    read = FLOAT * 8 * (3 + 3 + 1 + 2) + 2 * 3 * 8
    assert embedding.bytes_moved == read + FLOAT * 3 * 8 + 2 * FLOAT * 3
    source, starts = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 3, *[3] * 998])
    readers = torch.arange(3)
    repeated = count(lambda: repeat_rows(word, source, starts, readers))
    assert repeated.bytes_moved == FLOAT * 2 * 3 * 8 + 8 * (3 + 1001 + 3)


def test_operators_make_ours_fewer_operations():
    vqa = workload("vqa").sized(16)
    reference = count_workload(vqa, config_for(vqa, tiny=True))["step"]["ours"]
    with implementation("operator"):
        operators = count_workload(vqa, config_for(vqa, tiny=True))["step"]["ours"]
    assert operators.unknown == []
    assert reference.launches == reference.operations
    assert operators.operations < operators.launches < reference.operations
    assert operators.bytes_moved < reference.bytes_moved


def test_a_step_of_two_layers():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1)), torch.randn(4, 8)
    counts = count_step(lambda: model(x).sum(), model, x)
    forward = 2 * 4 * (8 * 16 + 16)
    # backward: both weights' gradients, and the input's of the second layer only
    assert counts.flops == forward + 2 * 4 * (8 * 16 + 16) + 2 * 4 * 16
    # what GELU read and what it gave; the batch and the weights were there anyway
    assert counts.saved_bytes == 2 * FLOAT * 4 * 16
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_views_and_empty_memory_move_nothing_and_a_lookup_moves_its_rows():
    x, table = torch.randn(4, 6), nn.Embedding(1000, 8)
    views = count(lambda: (x.t(), x[1:], x.view(24), torch.empty(9), x.expand(3, 4, 6)))
    assert (views.operations, views.bytes_moved) == (0, 0)
    assert count(lambda: table(torch.tensor([1, 2, 3]))).bytes_moved >= 2 * FLOAT * 3 * 8
    assert count(lambda: table.weight[:3].index_select(0, torch.tensor([0]))).bytes_moved < FLOAT * 8 * 9
    assert stored_bytes(torch.ones(1, 6).expand(5, 6)) == FLOAT * 6
    assert count(lambda: x.add_(1)).operations == 1


@torch.no_grad()
def test_peak_memory_is_of_what_is_alive_at_once():
    def chain():
        x = torch.zeros(1000)
        for _ in range(5):
            x = x + 1
        return x

    assert count(chain).peak_bytes == 2 * FLOAT * 1000
    kept = []
    assert count(lambda: kept.extend(torch.zeros(1000) for _ in range(5))).peak_bytes == 5 * FLOAT * 1000


def test_ours_costs_less_than_hugging_face():
    vqa = workload("vqa").sized(16)
    found = count_workload(vqa, config_for(vqa, tiny=True))
    assert found.keys() == {"inference", "step"}
    for rows in found.values():
        theirs, ours = rows["huggingface eager"], rows["ours"]
        assert ours.flops < theirs.flops
        assert ours.bytes_moved < theirs.bytes_moved
        assert ours.peak_bytes < theirs.peak_bytes
    assert found["inference"]["ours"].saved_bytes == 0
    assert found["step"]["ours"].saved_bytes < found["step"]["huggingface eager"].saved_bytes
