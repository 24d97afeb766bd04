"""Programs of a launch run in any order on a GPU, and at once: from last to first they leave the same bits.

A program that writes a row of another's, or reads what another wrote, would show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from operations import (
    Case,
    of_attention,
    of_cross_attention,
    of_gelu,
    of_norm,
    of_regions,
    of_rows_repeated,
    of_self_attention,
    of_text,
)
from standing import Shape
from torch import Tensor
from triton.runtime.interpreter import interpreter_builder

SHAPE = Shape(3, 7, 9, 24, 2)


@contextmanager
def last_to_first() -> Iterator[list[tuple[int, ...]]]:
    """Triton's interpreter counts programs down; those that ran, in order."""
    ran: list[tuple[int, ...]] = []
    put = interpreter_builder.set_grid_idx

    def reversed_put(*index: int) -> None:
        ran.append(tuple(n - 1 - i for n, i in zip(interpreter_builder.grid_dim, index, strict=True)))
        put(*ran[-1])

    with patch.object(interpreter_builder, "set_grid_idx", reversed_put):
        yield ran


def run(case: Case) -> list[Tensor]:
    leaves = {name: x.float().requires_grad_() for name, x in case.tensors.items()}
    output = case.kernel(**leaves)
    output.backward(torch.linspace(-1, 1, output.numel()).view(output.shape))
    return [output.detach(), *(x.grad for x in leaves.values())]


CASES: dict[str, Callable[[], Case]] = {
    "self attention": lambda: of_self_attention(SHAPE, "packed", 0.2),
    "cross attention": lambda: of_cross_attention(SHAPE, "both", p=0.2),
    "attention": lambda: of_attention(SHAPE, share=True),
    "norm": lambda: of_norm((33, 70), 24, p=0.2),
    "norm, small weights": lambda: of_norm((33, 70), 24, small=True),
    "gelu": lambda: of_gelu((21, 70), 300, 2),
    "text": lambda: of_text(70, 24, p=0.2),
    "regions": lambda: of_regions(200, 24, p=0.2),
    "repeated rows": lambda: of_rows_repeated(9, 20, 1030),
}


@pytest.mark.parametrize("name", CASES)
def test_from_last_to_first(name: str):
    wanted = run(CASES[name]())
    with last_to_first() as ran:
        found = run(CASES[name]())
    assert ran != sorted(ran)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
