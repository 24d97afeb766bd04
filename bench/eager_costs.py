"""What eager PyTorch launches and moves for the values, or the gradients, of a call of `step_calls.py`.

Counted on the meta device (`counts.py`), CUDA's dropout as the one operation that it is there. In eager's
favour: attention gets queries, keys and values padded, repeated for each pair and split into heads for
nothing, and a bias is added by the product before it, for nothing too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.bench.counts import count
from lxmert_fast.bench.cuda_dropout import CudaDropout
from lxmert_fast.bench.gpu import formulas
from lxmert_fast.bench.gpu.formulas import Given
from lxmert_fast.bench.step_calls import Call


class Cost(NamedTuple):
    """Launches and bytes."""

    launches: int
    bytes: int

    def times(self, n: int) -> Cost:
        """Of n such calls."""
        return Cost(n * self.launches, n * self.bytes)


def eager_cost(call: Call, given: Given) -> Cost:
    """What PyTorch's operations launch and move for the same values, or for the same gradients."""
    total = Cost(0, 0)
    for forward, leaves, for_nothing in _eager(call, given):
        with CudaDropout():
            if call.kernel.endswith("_forward"):
                counted, free = count(torch.no_grad()(forward)), count(for_nothing)
            else:
                y = forward()
                backward = partial(torch.autograd.grad, y, leaves, torch.empty_like(y))
                counted, free = count(backward), count(_nothing)
        total = Cost(
            total.launches + counted.launches - free.launches,
            total.bytes + counted.bytes_moved - free.bytes_moved,
        )
    return total


def _nothing() -> None:
    return None


Eager = tuple[Callable[[], Tensor], list[Tensor], Callable[[], object]]


def _eager(call: Call, given: Given) -> Iterator[Eager]:
    """Of each stream: the formula, what has gradients, and the bias that eager's product adds for nothing."""
    kind = call.kernel.split("_")[0]
    if kind == "sum":
        x, starts, readers = call.run.args  # type: ignore[attr-defined]
        shared = x[: len(starts) - 1].detach().requires_grad_()
        yield partial(shared.index_select, 0, readers), [shared], _nothing
    elif kind == "attention":
        both = "cross" in call.what or "both streams" in call.what
        for met in given["table"].chunk(2 if both else 1):
            yield _dense_attention(given, met)
    else:
        for stream in _streams(given):
            leaves = {
                name: x.detach().requires_grad_()
                for name, x in stream.items()
                if isinstance(x, Tensor) and x.is_floating_point() and name != "box"
            }
            of = stream | leaves
            free: Callable[[], object] = _nothing
            if kind != "text":
                names = ("feature", "feature_bias") if kind == "visual" else ("x", "bias")
                free = partial(torch.add, *(stream[name] for name in names))
            yield partial(_FORMULAS[kind], of), list(leaves.values()), free


def _norm(of: Given) -> Tensor:
    total = F.dropout(of["x"] + of["bias"], of["p"]) + of["residual"]
    return F.layer_norm(total, total.shape[1:], of["weight"], of["shift"], of["eps"])


_FORMULAS: dict[str, Callable[[Given], Tensor]] = {
    "norm": _norm,
    "gelu": lambda of: F.gelu(of["x"] + of["bias"]),
    "text": lambda of: formulas.text(of | {"segments": of["ids"]}, formulas.pytorch_masks(of)),
    "visual": lambda of: formulas.visual(of, formulas.pytorch_masks(of)),
}


def _streams(given: Given) -> Iterator[Given]:
    """Two streams are two tensors to eager PyTorch."""
    if given.get("bias2") is None:
        yield given
        return
    for rows, of in ((slice(None, given["split"]), ""), (slice(given["split"], None), "2")):
        one: Given = {"p": given.get("p"), "eps": given.get("eps")}
        one |= {name: given[name][rows] for name in ("x", "residual") if name in given}
        one |= {name: given[name + of] for name in ("weight", "shift", "bias") if name in given}
        yield one


def _dense_attention(given: Given, met: Tensor) -> Eager:
    """Padded, repeated and split into heads for nothing; the additive mask is there as well."""
    heads, qkv, most = given["heads"], given["qkv"], met[:, [2, 5]].amax(0).tolist()
    width = qkv.shape[1] // 3 // heads
    q, k, v = (qkv.new_empty(len(met), heads, n, width).requires_grad_() for n in (most[0], most[1], most[1]))
    mask = None if bool((met[:, 5] == most[1]).all()) else qkv.new_empty(len(met), 1, 1, most[1])

    def attend() -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(width)
        scores = scores if mask is None else scores + mask
        out = F.dropout(torch.softmax(scores, -1), given["p"]) @ v
        return out.transpose(1, 2).flatten(2)

    return attend, [q, k, v], _nothing
