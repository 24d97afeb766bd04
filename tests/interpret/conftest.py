"""The Triton kernels themselves, run on the CPU by Triton's interpreter, in a process of their own.

TRITON_INTERPRET is read when triton is imported, so it is set for the process: `make test` does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    raise pytest.UsageError("tests/interpret needs TRITON_INTERPRET=1")

import torch
from guards import poisoned
from torch import Tensor

from lxmert_fast.kernels.dispatch import implementation, interprets
from lxmert_fast.kernels.self_attention import triton as attention_kernels


@pytest.fixture(autouse=True)
def no_product_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's `tl.dot` of bf16 numbers is not theirs: no test may take it for a result."""
    constants = attention_kernels._constants

    def checked(kernel: str, query: Tensor, *arguments: Any) -> Any:
        assert query.dtype is not torch.bfloat16, "tl.dot of bf16 is wrong in Triton's interpreter"
        return constants(kernel, query, *arguments)

    monkeypatch.setattr(attention_kernels, "_constants", checked)


@pytest.fixture(autouse=True)
def operators() -> Iterator[None]:
    """Everything is served by the operators, which launch kernels; their memory is NaN until written."""
    assert interprets()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with implementation("operator"), poisoned():
        yield
    torch.set_num_threads(threads)


HALVES_AND_SINGLES = (torch.float32, torch.float16)


@pytest.fixture(params=HALVES_AND_SINGLES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def product_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of kernels with a matrix product."""
    return request.param


@pytest.fixture(
    params=(*HALVES_AND_SINGLES, torch.bfloat16), ids=lambda dtype: str(dtype).removeprefix("torch.")
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of kernels that work element by element and row by row."""
    return request.param
