"""visual_embedding as a torch operator: schema, checks, shapes, gradient, and who computes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from ..checks import check_dropout, check_like, check_rows, check_vectors, wrong
from ..dispatch import runs_triton
from ..launch import in_order
from ..philox import Seed, keep_mask, keep_scale
from ..statistics import statistics


@custom_op("lxmert_fast::visual_embedding", mutates_args=())
def visual_embedding(
    feature: Tensor,
    feature_bias: Tensor | None,
    box: Tensor,
    box_weight: Tensor,
    box_bias: Tensor,
    feature_norm_weight: Tensor,
    feature_norm_shift: Tensor,
    box_norm_weight: Tensor,
    box_norm_shift: Tensor,
    seed: Tensor | None,
    eps: float,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor]:
    """dropout((LayerNorm(f + b_F) + LayerNorm(W_P p + b_P)) / 2) of N regions.

    Args:
        feature: (N, H), the product of the region features; feature_bias: (H,) b_F.
        box: (N, 4) p; box_weight: (H, 4) W_P; box_bias: (H,) b_P.
        feature_norm_*, box_norm_*: (H,).
        seed, site, p: dropout.

    Returns:
        y (N, H), and mean and 1 / deviation of the features, then of the boxes, (4, N) in
        fp32, or fp64 with the features.

    Raises:
        ValueError: an argument that does not fit.
    """
    name = "visual_embedding"
    check_rows(name, "feature", feature)
    check_rows(name, "box", box, 4)
    if len(box) != len(feature):
        raise wrong(name, "box", f"of {len(box)} rows", f"{len(feature)} rows as feature")
    if box_weight.shape != (feature.shape[1], 4):
        raise wrong(name, "box_weight", f"of shape {tuple(box_weight.shape)}", f"({feature.shape[1]}, 4)")
    check_like(name, feature, box=box)
    check_vectors(
        name,
        feature,
        feature_bias=feature_bias,
        box_bias=box_bias,
        feature_norm_weight=feature_norm_weight,
        feature_norm_shift=feature_norm_shift,
        box_norm_weight=box_norm_weight,
        box_norm_shift=box_norm_shift,
        box_weight=box_weight[:, 0],
    )
    check_dropout(name, feature, p, seed)
    norms = feature_norm_weight, feature_norm_shift, box_norm_weight, box_norm_shift
    if runs_triton(feature):
        from .triton import launch_forward

        w, b, v, c = norms
        return launch_forward(
            feature.contiguous(), in_order(feature_bias), box.contiguous(), box_weight.contiguous(),
            box_bias.contiguous(), (w.contiguous(), b.contiguous(), v.contiguous(), c.contiguous()),
            eps, seed, site, p,
        )  # fmt: skip
    f, q = _projections(feature, feature_bias, box, box_weight, box_bias)
    stats = []
    normal = []
    for x in (f, q):
        mean, rstd = statistics(x, eps)
        stats += [mean[:, 0], rstd[:, 0]]
        normal.append((x - mean) * rstd)
    y = (normal[0] * norms[0] + norms[1] + normal[1] * norms[2] + norms[3]) / 2
    if p > 0.0:
        assert seed is not None
        y = y * keep_mask(Seed(seed, site), 0, tuple(y.shape), p) * keep_scale(p)
    return y.to(feature.dtype), torch.stack(stats)


@visual_embedding.register_fake
def _(feature: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(feature, memory_format=torch.contiguous_format)
    wide = torch.promote_types(torch.float32, feature.dtype)
    return y, feature.new_empty(4, feature.shape[0], dtype=wide)


@custom_op("lxmert_fast::visual_embedding_backward", mutates_args=())
def backward(
    dy: Tensor,
    feature: Tensor,
    feature_bias: Tensor | None,
    box: Tensor,
    box_weight: Tensor,
    box_bias: Tensor,
    feature_norm_weight: Tensor,
    box_norm_weight: Tensor,
    stats: Tensor,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features (N, H) and boxes (N, 4), and the sums (9, H).

    Those are the gradients of the features' norm (weight, shift) and bias, of the boxes' norm's weight and
    bias, and of the four columns of W_P. The boxes' norm's shift has the features' one's gradient.
    """
    if runs_triton(feature):
        from .triton import launch_backward

        return launch_backward(
            dy.contiguous(), feature.contiguous(), in_order(feature_bias), box.contiguous(),
            box_weight.contiguous(), box_bias.contiguous(),
            (feature_norm_weight.contiguous(), box_norm_weight.contiguous()), stats, seed, site, p,
        )  # fmt: skip
    f, q = _projections(feature, feature_bias, box, box_weight, box_bias)
    half = dy.to(f.dtype) / 2
    if p > 0.0:
        assert seed is not None
        half = half * keep_mask(Seed(seed, site), 0, tuple(dy.shape), p) * keep_scale(p)
    df, dw = _norm_backward(half, f, feature_norm_weight, stats[0], stats[1])
    dq, dv = _norm_backward(half, q, box_norm_weight, stats[2], stats[3])
    columns = (dq.t() @ box.to(dq.dtype)).t()
    sums = torch.cat([torch.stack([dw, half.sum(0), df.sum(0), dv, dq.sum(0)]), columns])
    dbox = dq @ box_weight.to(dq.dtype)
    return df.to(feature.dtype), dbox.to(box.dtype), sums.to(box_weight.dtype)


@backward.register_fake
def _(
    dy: Tensor, feature: Tensor, feature_bias: Tensor | None, box: Tensor, box_weight: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    df, dbox = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (feature, box))
    return df, dbox, box_weight.new_empty(9, feature.shape[1])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    feature, feature_bias, box, box_weight, box_bias, w, _, v, _, seed, _, site, p = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(feature, feature_bias, box, box_weight, box_bias, w, v, output[1], seed)
    ctx.numbers = site, p


class _Gradients(NamedTuple):
    feature: Tensor | None = None
    feature_bias: Tensor | None = None
    box: Tensor | None = None
    box_weight: Tensor | None = None
    box_bias: Tensor | None = None
    feature_norm_weight: Tensor | None = None
    feature_norm_shift: Tensor | None = None
    box_norm_weight: Tensor | None = None
    box_norm_shift: Tensor | None = None
    seed: None = None
    eps: None = None
    site: None = None
    p: None = None


def _gradient(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if dy is None:
        return _Gradients()
    df, dbox, sums = backward(dy, *ctx.saved_tensors, *ctx.numbers)
    dw, db, df_bias, dv, dq_bias = sums[:5].unbind(0)
    return _Gradients(
        df,
        df_bias if ctx.saved_tensors[1] is not None else None,
        dbox if ctx.needs_input_grad[2] else None,
        sums[5:].t(),
        dq_bias,
        dw,
        db,
        dv,
        db,
    )


visual_embedding.register_autograd(_gradient, setup_context=_keep)


def _projections(
    feature: Tensor, feature_bias: Tensor | None, box: Tensor, box_weight: Tensor, box_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """f + b_F and W_P p + b_P, in fp32 at least."""
    wide = torch.promote_types(torch.float32, feature.dtype)
    f = feature.to(wide) if feature_bias is None else feature.to(wide) + feature_bias
    return f, box.to(wide) @ box_weight.to(wide).t() + box_bias


def _norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows (N, H) and of the weight (H,)."""
    normal = (x - mean[:, None]) * rstd[:, None]
    g = dy * weight
    dx = (g - g.mean(1, keepdim=True) - normal * (g * normal).mean(1, keepdim=True)) * rstd[:, None]
    return dx, (dy * normal).sum(0)
