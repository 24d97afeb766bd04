"""Counts of models small enough to count by hand."""

from __future__ import annotations

import torch
from torch import nn

from lxmert_fast.bench.counts import count, count_step, count_workload, stored_bytes
from lxmert_fast.bench.workloads import config_for, workload

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
