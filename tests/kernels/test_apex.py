"""NVIDIA's Apex is taken by what it has, not by its name; here a stand-in for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lxmert_fast.kernels import apex
from lxmert_fast.kernels.dispatch import implementation, use_apex, use_operators
from lxmert_fast.kernels.dropout_add_layer_norm import Parameters, dropout_add_layer_norm
from lxmert_fast.kernels.dropout_add_layer_norm import function as room


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    apex._function.cache_clear()
    yield
    apex._function.cache_clear()


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> None:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    made.__dict__.update(names)
    monkeypatch.setitem(sys.modules, name, made)


def nvidia(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]) -> None:
    """Modules with what is needed of NVIDIA's."""

    def fused_layer_norm_affine(x: torch.Tensor, weight: Any, bias: Any, shape: Any, eps: float) -> Any:
        calls.append(tuple(x.shape))
        return F.layer_norm(x, shape, weight, bias, eps)

    for name in ("apex", "apex.normalization", "fused_layer_norm_cuda"):
        module(monkeypatch, name)
    module(
        monkeypatch, "apex.normalization.fused_layer_norm", fused_layer_norm_affine=fused_layer_norm_affine
    )


def test_without_it_the_choice_says_what_is_missing():
    if "apex" in sys.modules or apex.missing() is None:
        pytest.skip("an apex is installed here")
    with pytest.raises(ValueError, match="LXMERT_FAST_KERNELS is 'apex', and no package apex"):
        apex.layer_norm(torch.zeros(2, 8), torch.ones(8), torch.zeros(8), 1e-12)


def test_the_unrelated_package_is_not_it(monkeypatch: pytest.MonkeyPatch):
    module(monkeypatch, "apex")
    assert "it is another one" in (apex.missing() or "")


def test_a_cpu_never_takes_it():
    with implementation("apex"):
        assert not use_apex(torch.zeros(1))
        assert not use_operators(torch.zeros(1))


@pytest.mark.parametrize("two", [False, True], ids=["one stream", "both streams"])
def test_its_norm_stands_in_for_the_operators(two: bool, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[int, ...]] = []
    nvidia(monkeypatch, calls)
    assert apex.missing() is None
    x, residual = torch.randn(6, 8), torch.randn(6, 8)
    weight, shift, bias = torch.rand(8) + 0.5, torch.randn(8), torch.randn(8)
    second = Parameters(2 * weight, shift + 1, bias) if two else None
    wanted = dropout_add_layer_norm(x, residual, weight, shift, bias=bias, second=second, split=4)
    monkeypatch.setattr(room, "use_apex", lambda _: True)
    found = dropout_add_layer_norm(x, residual, weight, shift, bias=bias, second=second, split=4)
    torch.testing.assert_close(found, wanted)
    assert calls == ([(4, 8), (2, 8)] if two else [(6, 8)])
