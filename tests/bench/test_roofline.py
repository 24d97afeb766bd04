"""The page on the kernels says what the counts say, and its estimates follow from them by hand."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lxmert_fast.bench.counts import count
from lxmert_fast.bench.cuda_dropout import CudaDropout
from lxmert_fast.bench.eager_costs import Cost
from lxmert_fast.bench.roofline import GPUS, Row, main, rows_of, tables
from lxmert_fast.bench.workloads import config_for, workload
from lxmert_fast.pages import parts, put

PAGE = Path(__file__).resolve().parents[2] / "kernels" / "README.md"
A100, H100 = GPUS
H, HALF = 768, 2


@functools.cache
def found() -> dict[str, str]:
    return tables()


@functools.cache
def rows() -> dict[tuple[str, str], Row]:
    sized = workload("vqa")
    return {(row.call.what, row.call.kernel): row for row in rows_of(sized, config_for(sized))}


@pytest.mark.parametrize("name", ["eager", "roofline", "steps"])
def test_the_page_has_the_tables(name: str):
    hint = "run python -m lxmert_fast.bench.roofline kernels/README.md"
    assert parts(PAGE.read_text(encoding="utf-8"), name)[1] == found()[name], hint


def test_a_norm_by_hand():
    """909 kept text positions."""
    row, n = rows()["norm of texts", "norm_forward"], 909
    # x, residual and y; bias, weight and shift; two statistics a row and the seed
    least = HALF * H * (3 * n + 3) + 2 * 4 * n + 8
    assert row.call.least == row.ours.bytes == least
    assert (row.flops, row.draws) == (0, 1024 * n)
    assert row.bounds(A100) == pytest.approx(
        {"bytes": least / 2.0e12, "products": 0.0, "dropout": 1024 * n * 18 / (64 * 108 * 1.41e9)}
    )
    assert row.cell(A100) == "2.1 bytes"
    # hidden states: dropout two and a mask of bytes, the sum three, the norm two; weight and shift; two
    # statistics a row, in the half precision of the meta device or in a GPU's fp32
    half = HALF * H * (2 + 3 + 2) * n
    assert row.eager.launches == 3
    assert row.eager.bytes - half - H * n - HALF * H * 2 in (2 * HALF * n, 2 * 4 * n)


def test_attention_by_hand():
    """96 pairs, 20 words at most and 36 boxes, 12 heads 64 wide; tiles of 64 x 64, in backward of 32 x 64."""
    key = "later cross attention"
    forward, backward = rows()[key, "attention_forward"], rows()[key, "attention_backward"]
    words = 96 * 12 * (64 + 64) * 64
    assert forward.draws == words
    assert forward.flops == 2 * 2 * words * 64
    # a tile holds the words, two hold the boxes
    assert backward.draws == 96 * 12 * (32 + 2 * 32) * 64
    assert backward.flops == 5 * 2 * backward.draws * 64
    assert forward.seconds(A100) == words * 18 / (64 * 108 * 1.41e9) > forward.call.least / 2.0e12
    # a direction: scores, scale, softmax, dropout, context, heads joined; the text's keys are masked
    assert forward.eager.launches == 6 + 7
    assert (forward.ours.launches, backward.ours.launches) == (1, 1)


def test_a_gelu_moves_what_eager_moves():
    """Its bias is added by eager's product for nothing."""
    row = rows()["gelu of texts", "gelu_forward"]
    assert row.eager == Cost(1, HALF * 2 * 909 * 4 * H)
    assert row.ours == Cost(1, row.eager.bytes + HALF * 4 * H)


def test_dropout_counts_as_on_a_gpu():
    x = torch.empty(4, 8, dtype=torch.bfloat16, device="meta")
    with CudaDropout():
        assert count(lambda: F.dropout(x, 0.1)).launches == 1
        assert count(lambda: torch.nn.Dropout(0.1).eval()(x)).launches == 0
    assert count(lambda: F.dropout(x, 0.1)).launches == 3


def test_putting_a_table_between_its_marks(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- eager -->\nold\n<!-- eager -->\nb\n", encoding="utf-8")
    monkeypatch.setattr("lxmert_fast.bench.roofline.tables", lambda: {"eager": "new"})
    main([str(page)])
    assert page.read_text(encoding="utf-8") == "a\n<!-- eager -->\nnew\n<!-- eager -->\nb\n"
    empty = "<!-- eager -->\n<!-- eager -->\n"
    assert put(empty, "eager", "new") == "<!-- eager -->\nnew\n<!-- eager -->\n"


def test_the_command_prints_them(capsys, monkeypatch):
    monkeypatch.setattr("lxmert_fast.bench.roofline.tables", lambda: {"eager": "one", "steps": "two"})
    main([])
    assert capsys.readouterr().out == "one\n\ntwo\n"
