"""One copy instead of many: nested structures through one buffer of bytes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lxmert_fast.execution import Inputs, Reads, make_plan
from lxmert_fast.transfer import ALIGNMENT, pack, tensors_in, to_device, unpack

DTYPES = (torch.int64, torch.float32, torch.bfloat16, torch.bool, torch.uint8)


class Pair(NamedTuple):
    first: Tensor
    second: dict[str, Tensor | int | None]


@given(
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=6),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=6, max_size=6),
)
@settings(max_examples=50, deadline=None)
def test_what_is_packed_comes_out_again(shapes: list[tuple[int, int]], dtypes: list[torch.dtype]):
    """Also transposed tensors, empty ones, and one that stands in two places."""
    tensors = [torch.randint(0, 2, shape).to(dtype).t() for shape, dtype in zip(shapes, dtypes, strict=False)]
    value = (Pair(tensors[0], {"a": tensors[1], "b": 3, "c": None}), *tensors)
    buffer = pack(value)
    assert len(buffer) % ALIGNMENT == 0
    found = unpack(value, buffer.clone())
    assert found[0].second["b"] == 3
    assert found[0].second["c"] is None
    assert found[0].first is found[1]
    for x, y in zip(tensors_in(found), tensors_in(value), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_a_plan_crosses_over_as_a_whole():
    """Streams that are one stay one, and nothing is left behind."""
    mask = (torch.arange(9) < torch.tensor([[9], [5], [3]])).long()
    inputs = Inputs((3, 9), (3, 6), mask, None, None, None, torch.device("cpu"))
    plan = make_plan(inputs, Reads(), True, torch.float32)
    there = to_device(plan, torch.device("meta"))
    assert there.text.entry is there.text.pairs
    assert {x.device.type for x in tensors_in(there)} == {"meta"}
    assert [x.shape for x in tensors_in(there)] == [x.shape for x in tensors_in(plan)]
