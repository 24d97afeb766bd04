"""Joined and prepared products give what separate layers give, also after weights changed in any way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tolerance import FP64, assert_close
from torch import Tensor, nn

from lxmert_fast.both_streams import joined_products
from lxmert_fast.dense import dense, dense_gelu, gelu_dense, kept_weights
from lxmert_fast.kernels.dispatch import implementation

F = nn.functional


def layers(count: int = 3, bias: bool = True) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(16, 8, bias=bias) for _ in range(count)]


def separately(x: Tensor, some: list[nn.Linear]) -> Tensor:
    return torch.cat([layer(x) for layer in some], -1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_are_those_of_separate_layers(count: int, bias: bool):
    some = layers(count, bias)
    x = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    for layer in some:
        layer.double()
    wanted_of: list[Tensor] = []
    for product in (separately, lambda x, some: dense(x, *some)):
        x.grad = None
        for layer in some:
            layer.zero_grad()
        product(x, some).square().sum().backward()
        found = [x.grad, *(p.grad for layer in some for p in layer.parameters())]
        if not wanted_of:
            wanted_of = [g.clone() for g in found if g is not None]
        for one, other in zip(found, wanted_of, strict=True):
            assert_close(one, other, tolerance=FP64)


def test_frozen_layers_get_no_gradient():
    some = layers()
    some[1].requires_grad_(False)
    x = torch.randn(5, 16)
    dense(x, *some).sum().backward()
    assert some[1].weight.grad is None
    assert some[0].weight.grad is not None


CHANGES: dict[str, Callable[[nn.Linear], Any]] = {
    "in place": lambda layer: nn.init.normal_(layer.weight),
    "through .data": lambda layer: layer.weight.data.normal_(),
    ".data replaced": lambda layer: setattr(layer.weight, "data", torch.randn(8, 16)),
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(8, 16))),
    "the bias": lambda layer: layer.bias.data.normal_(),
    "loaded": lambda layer: layer.load_state_dict(nn.Linear(16, 8).state_dict()),
    "assigned": lambda layer: layer.load_state_dict(nn.Linear(16, 8).state_dict(), assign=True),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_changed_weight_is_prepared_anew(change: str):
    some = layers()
    x = torch.randn(5, 16)
    assert_close(dense(x, *some), separately(x, some))
    before = dense(x, *some)
    CHANGES[change](some[1])
    assert_close(dense(x, *some), separately(x, some))
    assert not torch.equal(dense(x, *some), before)


@torch.no_grad()
def test_gelu_in_the_same_pass():
    (layer,) = layers(1)
    x = torch.randn(5, 16)
    assert_close(dense_gelu(x, layer), F.gelu(layer(x)))
    assert dense_gelu(torch.zeros(0, 16), layer).shape == (0, 8)


def test_gelu_before_the_product():
    (layer,) = layers(1)
    layer.double()
    u = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, w, b: gelu_dense(u, layer), (u, layer.weight, layer.bias))
    assert_close(gelu_dense(u, layer), layer(F.gelu(u)), tolerance=FP64)


def test_hooks_and_other_kinds_are_called():
    some = layers()
    seen: list[str] = []
    some[2].register_forward_hook(lambda m, i, o: seen.append("hook"))
    x = torch.randn(5, 16)
    with torch.no_grad():
        assert_close(dense(x, *some), separately(x, some))
        seen.clear()
        dense(x, *some)
    assert seen == ["hook"]


def test_hooks_on_the_way_back_run_too():
    some = layers()
    seen: list[int] = []
    some[1].register_full_backward_hook(lambda m, i, o: seen.append(1))
    dense(torch.randn(5, 16, requires_grad=True), *some).sum().backward()
    assert seen == [1]


def test_layers_with_and_without_bias_are_not_joined_past_it():
    some = [*layers(1), *layers(1, bias=False)]
    x = torch.randn(5, 16)
    for order in (some, some[::-1]):
        assert_close(dense(x, *order), separately(x, order))


class WritesData(torch.optim.Optimizer):
    """One that no version counter shows, and that moves a single weight: a sample would miss it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.parameters(), {})

    def step(self) -> None:  # type: ignore[override]
        self.param_groups[0]["params"][0].data[1, 1] += 1.0


@pytest.mark.parametrize("by", ["operator", "reference"])
@torch.no_grad()
def test_an_optimizer_that_writes_data_is_seen(by: str):
    some = layers()
    x = torch.randn(5, 16)
    with implementation(by):
        before = dense(x, *some)
        assert kept_weights(some[0])
        WritesData(some[1]).step()
        assert not torch.equal(dense(x, *some), before)
        assert_close(dense(x, *some), separately(x, some))


@pytest.mark.parametrize("by", ["operator", "reference"])
def test_a_call_with_gradients_forgets_also_under_autocast(by: str):
    some = layers()
    x = torch.randn(5, 16)
    with implementation(by):
        with torch.no_grad():
            dense(x, *some)
        assert kept_weights(some[0])
        with torch.autocast("cpu", torch.bfloat16):
            dense(x, *some)
        assert not kept_weights(some[0])


@pytest.mark.parametrize("by", ["operator", "reference"])
@torch.no_grad()
def test_nothing_is_kept_of_partitioned_weights(by: str):
    """ZeRO-3 marks its parameters with `ds_id`, and frees their memory after the call."""
    some = layers(3)
    for layer in some:
        layer.weight.ds_id = 0  # type: ignore[assignment]
    x = torch.randn(5, 16)
    with implementation(by):
        assert_close(dense(x, *some), separately(x, some))
        assert_close(dense_gelu(x, some[0]), F.gelu(some[0](x)))
        if by == "operator":
            found = joined_products(x, 2, [(some[0],), (some[1],)])
            assert_close(found, torch.cat([some[0](x[:2]), some[1](x[2:])]))
    assert not kept_weights(nn.ModuleList(some))
