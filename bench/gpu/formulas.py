"""What each operator computes, in PyTorch operations alone: differentiable, in any dtype.

In fp64 they are what an operator is held against; in the operator's own dtype they are eager PyTorch, whose
error and whose time it is compared with. Attention is that of `tabled.py`, differentiated by autograd.
Dropout has the operator's own mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lxmert_fast.kernels.philox import Seed, keep_mask, keep_scale
from lxmert_fast.kernels.self_attention import tabled

Given = dict[str, Any]
"""Arguments of an operator by name."""
#: (x, (width,), weight, shift, eps).
LayerNorm = Callable[..., Tensor]
#: (x, the counter of its first element).
Drop = Callable[[Tensor, int], Tensor]


def own_masks(given: Given) -> Drop:
    """Dropout as the operator draws it."""

    def drop(x: Tensor, first: int) -> Tensor:
        if given["p"] == 0.0:
            return x
        kept = keep_mask(Seed(given["seed"], given["site"]), first, tuple(x.shape), given["p"])
        return x * kept * keep_scale(given["p"])

    return drop


def pytorch_masks(given: Given) -> Drop:
    """Dropout as PyTorch draws it."""
    return lambda x, first: F.dropout(x, given["p"]) if given["p"] else x


def norm(given: Given, drop: Drop, layer_norm: LayerNorm = F.layer_norm) -> Tensor:
    """dropout_add_layer_norm, a stream at a time."""
    x, residual, split = given["x"], given["residual"], given["split"]
    streams = [(slice(None, split), "")]
    if given["weight2"] is not None:
        streams.append((slice(split, None), "2"))
    parts = []
    for rows, of in streams:
        bias = given[f"bias{of}"]
        total = x[rows] if bias is None else x[rows] + bias
        total = drop(total, (rows.start or 0) * x.shape[1]) + residual[rows]
        parts.append(layer_norm(total, x.shape[1:], given[f"weight{of}"], given[f"shift{of}"], given["eps"]))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gelu(given: Given, drop: Drop) -> Tensor:
    """bias_gelu."""
    x, split = given["x"], given["split"]
    if given["bias"] is None:
        return F.gelu(x)
    if given["bias2"] is None:
        return F.gelu(x + given["bias"])
    return torch.cat([F.gelu(x[:split] + given["bias"]), F.gelu(x[split:] + given["bias2"])])


def text(given: Given, drop: Drop, layer_norm: LayerNorm = F.layer_norm) -> Tensor:
    """text_embedding."""
    ids, positions, segments = given["ids"], given["positions"], given["segments"]
    padding = None if given["padding"] < 0 else given["padding"]
    segments = torch.zeros_like(ids) if segments is None else segments
    total = F.embedding(ids, given["word"], padding)
    total = total + F.embedding(positions, given["position"], padding)
    total = total + F.embedding(segments, given["segment"], padding)
    return drop(layer_norm(total, total.shape[1:], given["weight"], given["shift"], given["eps"]), 0)


def visual(given: Given, drop: Drop, layer_norm: LayerNorm = F.layer_norm) -> Tensor:
    """visual_embedding."""
    feature, bias, size = given["feature"], given["feature_bias"], given["feature"].shape[1:]
    feature = feature if bias is None else feature + bias
    box = F.linear(given["box"], given["box_weight"], given["box_bias"])
    normal = [
        layer_norm(x, size, given[f"{of}_norm_weight"], given[f"{of}_norm_shift"], given["eps"])
        for of, x in (("feature", feature), ("box", box))
    ]
    return drop((normal[0] + normal[1]) / 2, 0)


def one_buffer(given: Given, drop: Drop) -> Tensor:
    """self_attention and cross_attention."""
    query, key, value = given["qkv"].chunk(3, 1)
    return _attention(query, key, value, given, given["written"])


def two_buffers(given: Given, drop: Drop) -> Tensor:
    """attention."""
    key, value = given["key_value"].chunk(2, 1)
    return _attention(given["query"], key, value, given, given["written_queries"])


def _attention(query: Tensor, key: Tensor, value: Tensor, given: Given, written: int) -> Tensor:
    sides = tabled.sides(given["table"], given["most_queries"], given["most_keys"])
    dropping = tabled.Dropping(given["p"], given["seed"], given["site"])
    return tabled.forward(query, key, value, *sides, given["bias"], given["heads"], written, dropping)


def repeated(given: Given, drop: Drop) -> Tensor:
    """repeat_rows, whose gradient is sum_readers."""
    return given["x"].index_select(0, given["source"])


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "dropout_add_layer_norm": norm,
    "bias_gelu": gelu,
    "text_embedding": text,
    "visual_embedding": visual,
    "self_attention": one_buffer,
    "cross_attention": one_buffer,
    "attention": two_buffers,
    "repeat_rows": repeated,
}
