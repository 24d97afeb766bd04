"""Rows that several read: repeated forward, summed backward."""

from __future__ import annotations

import pytest
import torch
from guards import Stand
from operations import of_rows_repeated
from three_runs import assert_as_good_as_eager as check

from lxmert_fast.kernels.rows import sum_readers


@pytest.mark.parametrize(("rows", "written", "width"), [(1, 1, 8), (9, 40, 48), (5, 12, 1030), (6, 3, 768)])
@pytest.mark.parametrize("stand", ["contiguous", "columns"])
def test_repeated_rows(rows: int, written: int, width: int, stand: Stand, dtype: torch.dtype):
    check(of_rows_repeated(rows, written, width), dtype, stand=stand)


def test_rows_that_no_one_reads_are_zero():
    starts = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(sum_readers(torch.zeros(0, 5), starts, starts[:0]), torch.zeros(3, 5))
    assert sum_readers(torch.ones(2, 5), starts[:1], starts[:0]).shape == (0, 5)


def test_sums_are_in_the_readers_order():
    """In single precision a sum's order shows: 1e8 + 1 - 1e8 is 0, 1e8 - 1e8 + 1 is 1."""
    x = torch.tensor([[1e8], [1.0], [-1e8]])
    starts = torch.tensor([0, 3])
    assert sum_readers(x, starts, torch.tensor([0, 1, 2])).item() == 0.0
    assert sum_readers(x, starts, torch.tensor([0, 2, 1])).item() == 1.0
