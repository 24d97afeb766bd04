"""Every operator as PyTorch's own tools see it: opcheck, torch.compile in one graph, torch.export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from arguments import FORWARD, Arguments
from torch import Tensor, nn

from lxmert_fast.kernels.bias_gelu import op as gelu_op
from lxmert_fast.kernels.dispatch import implementation
from lxmert_fast.kernels.dropout_add_layer_norm import op as norm_op
from lxmert_fast.kernels.rows import repeat_rows, sum_readers
from lxmert_fast.kernels.self_attention import op as attention_op
from lxmert_fast.kernels.text_embedding import op as text_op
from lxmert_fast.kernels.visual_embedding import op as visual_op


@pytest.fixture(autouse=True)
def operators() -> Iterator[None]:
    with implementation("operator"):
        yield


def backward_of(name: str) -> tuple[Any, Arguments]:
    """The backward operator with what the forward one keeps for it."""
    operator, arguments = FORWARD[name]
    given = [x.detach() if isinstance(x, Tensor) else x for x in arguments()]
    output = operator(*given)
    if operator is repeat_rows:
        return sum_readers, (torch.ones_like(output), *given[2:])
    if operator is attention_op.attention:
        return attention_op.attention_backward, (torch.ones_like(output), *given)
    if operator in (attention_op.self_attention, attention_op.cross_attention):
        of = getattr(torch.ops.lxmert_fast, f"{operator._name}_backward").default
        return of, (torch.ones_like(output), *given)
    if operator is norm_op.dropout_add_layer_norm:
        x, _, weight, shift, _, weight2, shift2, _, seed, split, _, site, p, _ = given
        saved = x.new_empty(0), *output, weight, shift, weight2, shift2, seed, split, site, p
        return norm_op.backward, (torch.ones_like(output[0]), *saved)
    if operator is gelu_op.bias_gelu:
        return gelu_op.backward, (torch.ones_like(output), *given, name == "gelu, bias")
    if operator is text_op.text_embedding:
        word, position, segment, weight, _, *ids, seed, padding, _, site, p = given
        saved = word, position, segment, weight, *ids, *output[1:], seed, padding, site, p
        return text_op.backward, (torch.ones_like(output[0]), *saved)
    feature, feature_bias, box, box_weight, box_bias, w, _, v, _, seed, _, site, p = given
    saved = feature, feature_bias, box, box_weight, box_bias, w, v, output[1], seed, site, p
    return visual_op.backward, (torch.ones_like(output[0]), *saved)


@pytest.mark.parametrize("name", FORWARD)
def test_opcheck(name: str):
    operator, arguments = FORWARD[name]
    torch.library.opcheck(operator, arguments())


@pytest.mark.parametrize("name", FORWARD)
def test_opcheck_of_backward(name: str):
    """Its schema and its shapes; it has no gradient of its own."""
    operator, arguments = backward_of(name)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, arguments, test_utils=tests)


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize("name", FORWARD)
def test_compiled_in_one_graph(name: str):
    """With gradients, the same numbers as without."""
    operator, arguments = FORWARD[name]

    def function(*given: Any) -> Tensor:
        return first(operator(*given)).square() * 2

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for run in (function, compiled):
        given = arguments()
        output = run(*given)
        output.sum().backward()
        results.append([output, *(x.grad for x in given if isinstance(x, Tensor) and x.requires_grad)])
    assert len(results[0]) > 1
    for one, other in zip(*results, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)


class Holding(nn.Module):
    """A module of one operator: its first tensor is the input, its other tensors belong to the module."""

    def __init__(self, operator: Any, arguments: Arguments) -> None:
        super().__init__()
        self.operator = operator
        self.fixed: list[Any] = []
        for i, x in enumerate(arguments[1:]):
            if isinstance(x, Tensor):
                self.register_buffer(f"argument{i}", x.detach())
                x = None
            self.fixed.append(x)

    def forward(self, x: Tensor) -> Tensor:
        rest = [getattr(self, f"argument{i}", value) for i, value in enumerate(self.fixed)]
        return first(self.operator(x, *rest))


@pytest.mark.parametrize("name", FORWARD)
def test_exported(name: str):
    operator, arguments = FORWARD[name]
    x, *rest = arguments()
    module = Holding(operator, (x, *rest)).eval()
    program = torch.export.export(module, (x.detach(),))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("lxmert_fast" in target for target in called), called
    torch.testing.assert_close(program.module()(x.detach()), module(x.detach()))
