"""The guards themselves: what is not written, read beside or written beside shows."""

from __future__ import annotations

import types

import pytest
import torch
from guards import MARGIN, Stand, guarded, poisoned

PROGRAM = """
import torch
def unwritten(): return torch.empty(3)
def unwritten_like(x): return torch.empty_like(x), x.new_empty(2, 2)
def beside(): x = torch.empty(3); x.as_strided((1,), (1,), x.storage_offset() + 3).zero_()
"""


@pytest.fixture
def module() -> types.ModuleType:
    """Code that seems to stand in `kernels/`."""
    made = types.ModuleType("lxmert_fast.kernels.made")
    exec(PROGRAM, made.__dict__)
    return made


def test_what_is_not_written_is_nan(module: types.ModuleType):
    assert module.unwritten().isnan().all()
    assert all(x.isnan().all() for x in module.unwritten_like(torch.zeros(4)))


def test_what_is_written_beside_shows(module: types.ModuleType):
    with pytest.raises(AssertionError, match="written beside"), poisoned():
        module.beside()


@pytest.mark.parametrize("stand", ["contiguous", "columns", "transposed"])
@pytest.mark.parametrize("shape", [(6,), (3, 4)])
def test_a_guarded_tensor_stands_between_nans(stand: Stand, shape: tuple[int, ...]):
    x = torch.rand(shape)
    found = guarded(x, stand)
    assert torch.equal(found, x)
    before = found.as_strided((MARGIN,), (1,), found.storage_offset() - MARGIN)
    assert before.isnan().all()
    assert found.is_contiguous() is (stand == "contiguous" or (stand == "transposed" and x.dim() == 1))
