"""On a CPU the operators are the formulas of `reference.py`, forward and backward, to the digits of fp64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import (
    SHARING,
    Case,
    of_attention,
    of_cross_attention,
    of_gelu,
    of_gelu_linear,
    of_norm,
    of_regions,
    of_rows_repeated,
    of_self_attention,
    of_text,
)
from standing import KINDS, ONE, SHAPES, SMALL, Shape
from torch import Tensor

from lxmert_fast.kernels.dispatch import implementation

P = 0.3
DIGITS = {torch.float64: 1e-11, torch.float32: 1e-4}


@pytest.fixture(autouse=True, scope="module")
def operators() -> Iterator[None]:
    with implementation("operator"):
        yield


def check(case: Case, dtype: torch.dtype = torch.float64) -> None:
    """The same output and gradients, to some digits of the largest value of each."""
    results = []
    for operation in (case.kernel, case.formula):
        leaves = {name: x.to(dtype).detach().requires_grad_() for name, x in case.tensors.items()}
        output = operation(**leaves)
        grad = torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)
        output.backward(grad)
        results.append({"output": output.detach(), **{name: x.grad for name, x in leaves.items()}})
    for name, wanted in results[1].items():
        found = results[0][name]
        assert found.dtype is dtype, name
        largest = wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(
            found, wanted, rtol=0, atol=DIGITS[dtype] * max(largest, 0.1), msg=lambda m, n=name: f"{n}: {m}"
        )


CASES: dict[str, Callable[[], Case]] = {
    **{f"self attention, {kind}": lambda k=kind: of_self_attention(SMALL, k) for kind in KINDS},
    **{f"self attention, {shape}": lambda s=shape: of_self_attention(s, "packed") for shape in SHAPES},
    "self attention, dropout": lambda: of_self_attention(SMALL, "packed", P),
    **{f"cross attention, shared: {s}": lambda s=s: of_cross_attention(SMALL, s) for s in SHARING},
    **{f"cross attention, {shape}": lambda s=shape: of_cross_attention(s) for shape in SHAPES},
    "cross attention, masked texts": lambda: of_cross_attention(SMALL, kinds=("masked", "dense")),
    "cross attention, dropout": lambda: of_cross_attention(SMALL, "both", p=P),
    "attention": lambda: of_attention(SMALL),
    "attention, shared, dropout": lambda: of_attention(SMALL, "packed, masked", True, P),
    "norm, one stream": lambda: of_norm((3, 4), 48, two=False, bias=False),
    "norm, two streams, dropout": lambda: of_norm((3, 4), 48, p=P),
    "norm, small weights": lambda: of_norm((3, 4), 48, small=True, p=P),
    "norm, an empty stream": lambda: of_norm((0, 4), 48),
    **{f"gelu, {n} biases": lambda n=n: of_gelu((3, 4), 48, n) for n in range(3)},
    "gelu and its product": lambda: of_gelu_linear((3, 4), 48, 16, 2),
    "text": lambda: of_text(30, 48),
    "text, one segment, no padding, dropout": lambda: of_text(30, 48, segments=False, padding=-1, p=P),
    "regions": lambda: of_regions(30, 48),
    "regions, no bias, dropout": lambda: of_regions(30, 48, bias=False, p=P),
    "repeated rows": lambda: of_rows_repeated(5, 12, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_are_the_reference(name: str):
    check(CASES[name]())


# what fp32 leaves of a difference of equal terms is rounding
@pytest.mark.parametrize("name", [name for name in CASES if "small" not in name and str(ONE) not in name])
def test_in_single_precision_too(name: str):
    check(CASES[name](), torch.float32)


shapes = st.builds(
    lambda batch, texts, objects, width, heads: Shape(batch, texts, objects, width * heads, heads),
    st.integers(1, 5),
    st.integers(1, 24),
    st.integers(1, 24),
    st.integers(1, 9),
    st.integers(1, 3),
)
rates = st.sampled_from([0.0, 0.25])


@given(shape=shapes, kind=st.sampled_from(KINDS), p=rates)
@settings(max_examples=25, deadline=None)
def test_self_attention_of_any_layout(shape: Shape, kind: str, p: float):
    check(of_self_attention(shape, kind, p))


@given(
    shape=shapes,
    sharing=st.sampled_from(SHARING),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    p=rates,
)
@settings(max_examples=40, deadline=None)
def test_cross_attention_of_any_layouts(shape: Shape, sharing: str, kinds: tuple[str, str], p: float):
    check(of_cross_attention(shape, sharing, kinds, p))


@given(shape=shapes, kind=st.sampled_from(KINDS), share=st.booleans(), p=rates)
@settings(max_examples=25, deadline=None)
def test_attention_of_any_layouts(shape: Shape, kind: str, share: bool, p: float):
    check(of_attention(shape, kind, share, p))


@pytest.mark.filterwarnings("error")  # none of no rows either
@given(
    rows=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    width=st.integers(4, 20),
    two=st.booleans(),
    bias=st.booleans(),
    p=rates,
)
@settings(max_examples=25, deadline=None)
def test_norms_of_any_streams(rows: tuple[int, int], width: int, two: bool, bias: bool, p: float):
    check(of_norm(rows, width, two=two, bias=bias, p=p))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["norm, two streams, dropout", "gelu, 2 biases", "text", "regions"])
def test_half_precision_rounds_once(name: str, half: torch.dtype):
    """The formulas compute in fp32 and round what they give."""
    case = CASES[name]()
    tensors = {key: x.to(half) for key, x in case.tensors.items()}
    exact = case.formula(**{key: x.double() for key, x in tensors.items()})
    found = case.kernel(**tensors)
    assert found.dtype is half
    allowed = torch.finfo(half).eps * exact.abs().max().item()
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=allowed)


def test_packed_dense_and_shared_rows_gather_the_same():
    """One attention, its rows standing in three ways."""
    from lxmert_fast.kernels.layout import dense, packed, shared
    from lxmert_fast.kernels.self_attention import additive_mask, attention

    lengths = torch.tensor([4, 7, 1])
    keep = torch.arange(7) < lengths[:, None]
    x = torch.randn(21, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = keep.flatten()

    def run(query: Tensor, key_value: Tensor, *layouts: object) -> Tensor:
        return attention(query, key_value, *layouts, 2)[0]

    mask = additive_mask(keep, torch.float64)
    closed = dense(3, 7, mask, x.device)
    wanted = run(x, torch.cat([x, x], 1), closed, closed)[kept]
    rows = packed(keep, None, torch.float64, kept=12, longest=7)
    torch.testing.assert_close(run(x[kept], torch.cat([x, x], 1)[kept], rows, rows), wanted)
    index = torch.tensor([2, 0, 1, 0])
    _, pairs = shared(rows, index, int(lengths[index].sum()))
    read = shared(rows, index, int(lengths[index].sum()))[0]
    found = run(x[kept], torch.cat([x, x], 1)[kept], read, read)
    parts = [found[a:b] for a, b in zip(pairs.starts[:-1], pairs.starts[1:], strict=True)]
    for part, of in zip(parts, index, strict=True):
        torch.testing.assert_close(part, wanted[rows.starts[of] : rows.starts[of + 1]])
