"""What a kernel is timed beside: eager PyTorch, its fused attention, and LayerNorms of Apex and Liger.

Rivals get what is best for them: attention's queries, keys and values stand padded and repeated as dense
tensors, and nothing is charged for making them so.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lxmert_fast.bench.gpu.environment import apex, has
from lxmert_fast.bench.gpu.formulas import FORMULAS, Given, LayerNorm, pytorch_masks
from lxmert_fast.bench.gpu.parity import FLOOR, error_of

PYTORCH, SDPA = "pytorch", "sdpa"


@dataclass(frozen=True)
class Rival:
    """A differentiable way to compute what an operator computes."""

    name: str
    forward: Callable[[], Tensor]
    inputs: list[Tensor]

    def timed(self, backward: bool) -> Callable[[], object]:
        """The call that is timed."""
        if not backward:
            return torch.no_grad()(self.forward)
        y = self.forward()
        inputs = [x for x in self.inputs if x.requires_grad]
        grad = torch.ones_like(y)
        return partial(torch.autograd.grad, y, inputs, grad, retain_graph=True, allow_unused=True)


def rivals(operator: str, given: Given, directions: int) -> Iterator[Rival]:
    """Of a call of an operator; whose values are not eager PyTorch's is left out.

    Args:
        directions: an attention's table has the meetings of so many kinds one after another.
    """
    if "table" in given:
        groups = list(_dense(given, directions))
        tensors = [x for group in groups for x in group[:3]]
        for name, attend in ((PYTORCH, _eager), (SDPA, _fused)):
            yield Rival(name, partial(_each, groups, attend, given["p"]), tensors)
        return
    given = {k: _leaf(v) for k, v in given.items()}
    inputs = [v for v in given.values() if isinstance(v, Tensor)]
    formula = partial(FORMULAS[operator], given)
    yield Rival(PYTORCH, partial(formula, pytorch_masks(given)), inputs)
    if operator == "dropout_add_layer_norm":
        plain = partial(formula, pytorch_masks({"p": 0.0}))
        wanted = plain().detach().double()
        for name, layer_norm in layer_norms().items():
            allowed = FLOOR * torch.finfo(given["x"].dtype).eps
            if error_of(plain(layer_norm=layer_norm), wanted) <= allowed:
                yield Rival(name, partial(formula, pytorch_masks(given), layer_norm=layer_norm), inputs)


def layer_norms() -> dict[str, LayerNorm]:
    """LayerNorms of other libraries, of those that are installed."""
    return {name: partial(_by_module, make) for name, make in layer_norm_modules().items()}


def layer_norm_modules() -> dict[str, Callable[..., nn.Module]]:
    """Name to (width, eps=...) -> a module with a weight and a bias."""
    found: dict[str, Callable[..., nn.Module]] = {}
    if apex() == "NVIDIA's":
        found["apex"] = importlib.import_module("apex.normalization").FusedLayerNorm
    if has("liger_kernel"):
        liger = importlib.import_module("liger_kernel.transformers.layer_norm").LigerLayerNorm
        found["liger"] = partial(liger, bias=True)
    return found


def _by_module(
    make: Callable[..., nn.Module], x: Tensor, shape: Any, weight: Tensor, shift: Tensor, eps: float
) -> Tensor:
    module = make(shape[-1], eps=eps).to(x.device)
    return torch.func.functional_call(module, {"weight": weight, "bias": shift}, (x,))


def _leaf(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value


def _dense(given: Given, directions: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Query, key and value (M, heads, most, D) of each direction, and which keys are there."""
    like = given["qkv"] if "qkv" in given else given["query"]
    heads = given["heads"]
    width = like.shape[1] // (3 * heads if "qkv" in given else heads)
    for table in given["table"].cpu().chunk(directions):
        most_queries, most_keys = int(table[:, 2].max()), int(table[:, 5].max())
        q, k, v = (
            torch.randn(
                len(table), heads, most, width, dtype=like.dtype, device=like.device, requires_grad=True
            )
            for most in (most_queries, most_keys, most_keys)
        )
        there = torch.arange(most_keys) < table[:, 5:]
        mask = None if bool(there.all()) else there[:, None, None].to(like.device)
        yield q, k, v, mask


def _each(groups: list[Any], attend: Callable[..., Tensor], p: float) -> Tensor:
    return torch.cat([attend(*group, p).transpose(1, 2).flatten(2).flatten(0, 1) for group in groups])


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.dropout(torch.softmax(scores, -1), p) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
