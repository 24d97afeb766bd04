"""dropout((LayerNorm(f + b_F) + LayerNorm(W_P p + b_P)) / 2), forward and backward.

    f the product of the region features, p the box; x^ and z^ the two normalised rows
    df = LN'(w dy / 2)      dq = LN'(v dy / 2) with q = W_P p + b_P      dp = W_P^T dq
    dW_P = sum dq p^T       db_P = sum dq       db_F = sum df

What is fused: the feature product's bias, the projection of the 4-wide box (four multiplications an output
beat a product's launch and a hidden state written and read), both LayerNorms, the average and dropout. For
backward only f and the box are kept, with two statistics a row each.

A tile holds ROWS whole rows; W_P is read as four columns of H, once a program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..configs import power_of_two, settings
from ..dispatch import architecture
from ..dropout_add_layer_norm.triton import launch_sum_partials
from ..launch import ROWS_A_PROGRAM, launch, programs_for
from ..philox import keep_scale, threshold
from ..tiles import keep


@triton.jit
def parameter(p_x, o_h, m_h):
    """Of a parameter, fp32 [BLOCK_H]."""
    return tl.load(p_x + o_h, mask=m_h, other=0.0).to(tl.float32)


@triton.jit
def coordinate(p_box, o_r, m_r, i: tl.constexpr):
    """One of the four of each box, fp32 [ROWS, 1]."""
    return tl.load(p_box + o_r * 4 + i, mask=m_r, other=0.0).to(tl.float32)[:, None]


@triton.jit
def normalised(b_x, m_rh, eps, H: tl.constexpr):
    """Of rows [ROWS, BLOCK_H]: them normalised, mean and 1 / deviation [ROWS]."""
    b_mean = tl.sum(tl.where(m_rh, b_x, 0.0), 1) / H
    b_c = tl.where(m_rh, b_x - b_mean[:, None], 0.0)
    b_rstd = 1.0 / tl.sqrt_rn(tl.sum(b_c * b_c, 1) / H + eps)
    return b_c * b_rstd[:, None], b_mean, b_rstd


@triton.jit(do_not_specialize=["rows", "programs", "site", "threshold"])
def visual_forward(
    p_f, p_f_bias, p_box, p_box_w, p_box_bias, p_w, p_b, p_v, p_c, p_y, p_stats, p_seed,
    rows, programs, eps, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid: (programs). Statistics: (4, rows), mean and 1 / deviation of features, then of boxes."""
    i_p = tl.program_id(0)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    b_w, b_b = parameter(p_w, o_h, m_h), parameter(p_b, o_h, m_h)
    b_v, b_c = parameter(p_v, o_h, m_h), parameter(p_c, o_h, m_h)
    b_w0, b_w1 = parameter(p_box_w, o_h * 4, m_h), parameter(p_box_w, o_h * 4 + 1, m_h)
    b_w2, b_w3 = parameter(p_box_w, o_h * 4 + 2, m_h), parameter(p_box_w, o_h * 4 + 3, m_h)
    b_q_bias = parameter(p_box_bias, o_h, m_h)
    b_f_bias = tl.zeros([BLOCK_H], tl.float32)
    if HAS_BIAS:
        b_f_bias = parameter(p_f_bias, o_h, m_h)

    for first_row in range(i_p * ROWS, rows, programs * ROWS):
        o_r = first_row + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        m_r = o_r < rows
        m_rh = m_r[:, None] & m_h[None, :]
        o_rh = o_r[:, None] * H + o_h[None, :]
        b_f = tl.load(p_f + o_rh, mask=m_rh, other=0.0).to(tl.float32) + b_f_bias[None, :]  # [ROWS, BLOCK_H]
        b_x, b_f_mean, b_f_rstd = normalised(b_f, m_rh, eps, H)
        b_q = b_q_bias[None, :] + coordinate(p_box, o_r, m_r, 0) * b_w0[None, :]  # [ROWS, BLOCK_H]
        b_q += coordinate(p_box, o_r, m_r, 1) * b_w1[None, :]
        b_q += coordinate(p_box, o_r, m_r, 2) * b_w2[None, :]
        b_q += coordinate(p_box, o_r, m_r, 3) * b_w3[None, :]
        b_z, b_q_mean, b_q_rstd = normalised(b_q, m_rh, eps, H)
        b_y = (b_x * b_w[None, :] + b_b[None, :] + b_z * b_v[None, :] + b_c[None, :]) * 0.5
        if DROPOUT:
            b_y = tl.where(keep(p_seed, site, o_rh, threshold), b_y * keep_scale, 0.0)
        tl.store(p_y + o_rh, b_y.to(p_y.dtype.element_ty), mask=m_rh)
        tl.store(p_stats + o_r, b_f_mean, mask=m_r)
        tl.store(p_stats + rows + o_r, b_f_rstd, mask=m_r)
        tl.store(p_stats + 2 * rows + o_r, b_q_mean, mask=m_r)
        tl.store(p_stats + 3 * rows + o_r, b_q_rstd, mask=m_r)


@triton.jit
def norm_gradient(b_g, b_xhat, b_rstd, H: tl.constexpr):
    """The gradient through a normalisation, of g = w dy: [ROWS, BLOCK_H]."""
    b_mean_g = tl.sum(b_g, 1) / H
    b_mean_gx = tl.sum(b_g * b_xhat, 1) / H
    return (b_g - b_mean_g[:, None] - b_xhat * b_mean_gx[:, None]) * b_rstd[:, None]


@triton.jit(do_not_specialize=["rows", "programs", "site", "threshold"])
def visual_backward(
    p_f, p_f_bias, p_box, p_box_w, p_box_bias, p_w, p_v, p_dy, p_stats, p_df, p_dbox, p_part, p_seed,
    rows, programs, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid: (programs). Parts: (programs, 9, H): dw, db, db_F, dv, db_P and the four columns of dW_P.

    The gradient of v's shift is that of w's, since both norms are averaged.
    """
    i_p = tl.program_id(0)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    b_w, b_v = parameter(p_w, o_h, m_h), parameter(p_v, o_h, m_h)
    b_w0, b_w1 = parameter(p_box_w, o_h * 4, m_h), parameter(p_box_w, o_h * 4 + 1, m_h)
    b_w2, b_w3 = parameter(p_box_w, o_h * 4 + 2, m_h), parameter(p_box_w, o_h * 4 + 3, m_h)
    b_q_bias = parameter(p_box_bias, o_h, m_h)
    b_f_bias = tl.zeros([BLOCK_H], tl.float32)
    if HAS_BIAS:
        b_f_bias = parameter(p_f_bias, o_h, m_h)
    b_dw = tl.zeros([BLOCK_H], tl.float32)
    b_db = tl.zeros([BLOCK_H], tl.float32)
    b_df_bias = tl.zeros([BLOCK_H], tl.float32)
    b_dv = tl.zeros([BLOCK_H], tl.float32)
    b_dq_bias = tl.zeros([BLOCK_H], tl.float32)
    b_dw0 = tl.zeros([BLOCK_H], tl.float32)
    b_dw1 = tl.zeros([BLOCK_H], tl.float32)
    b_dw2 = tl.zeros([BLOCK_H], tl.float32)
    b_dw3 = tl.zeros([BLOCK_H], tl.float32)
    for first_row in range(i_p * ROWS, rows, programs * ROWS):
        o_r = first_row + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        m_r = o_r < rows
        m_rh = m_r[:, None] & m_h[None, :]
        o_rh = o_r[:, None] * H + o_h[None, :]
        b_dy = tl.load(p_dy + o_rh, mask=m_rh, other=0.0).to(tl.float32) * 0.5  # [ROWS, BLOCK_H]
        if DROPOUT:
            b_dy = tl.where(keep(p_seed, site, o_rh, threshold), b_dy * keep_scale, 0.0)

        b_f = tl.load(p_f + o_rh, mask=m_rh, other=0.0).to(tl.float32) + b_f_bias[None, :]
        b_mean = tl.load(p_stats + o_r, mask=m_r, other=0.0)
        b_rstd = tl.load(p_stats + rows + o_r, mask=m_r, other=0.0)
        b_xhat = tl.where(m_rh, (b_f - b_mean[:, None]) * b_rstd[:, None], 0.0)
        b_df = norm_gradient(b_dy * b_w[None, :], b_xhat, b_rstd, H)
        tl.store(p_df + o_rh, b_df.to(p_df.dtype.element_ty), mask=m_rh)
        b_dw += tl.sum(b_dy * b_xhat, 0)
        b_db += tl.sum(b_dy, 0)
        b_df_bias += tl.sum(tl.where(m_rh, b_df, 0.0), 0)

        b_p0, b_p1 = coordinate(p_box, o_r, m_r, 0), coordinate(p_box, o_r, m_r, 1)
        b_p2, b_p3 = coordinate(p_box, o_r, m_r, 2), coordinate(p_box, o_r, m_r, 3)
        b_q = b_q_bias[None, :] + b_p0 * b_w0[None, :] + b_p1 * b_w1[None, :]  # [ROWS, BLOCK_H]
        b_q += b_p2 * b_w2[None, :] + b_p3 * b_w3[None, :]
        b_mean = tl.load(p_stats + 2 * rows + o_r, mask=m_r, other=0.0)
        b_rstd = tl.load(p_stats + 3 * rows + o_r, mask=m_r, other=0.0)
        b_xhat = tl.where(m_rh, (b_q - b_mean[:, None]) * b_rstd[:, None], 0.0)
        b_dq = tl.where(m_rh, norm_gradient(b_dy * b_v[None, :], b_xhat, b_rstd, H), 0.0)
        b_dv += tl.sum(b_dy * b_xhat, 0)
        b_dq_bias += tl.sum(b_dq, 0)
        b_dw0 += tl.sum(b_dq * b_p0, 0)
        b_dw1 += tl.sum(b_dq * b_p1, 0)
        b_dw2 += tl.sum(b_dq * b_p2, 0)
        b_dw3 += tl.sum(b_dq * b_p3, 0)
        o_box = p_dbox + o_r * 4
        tl.store(o_box, tl.sum(b_dq * b_w0[None, :], 1).to(p_dbox.dtype.element_ty), mask=m_r)
        tl.store(o_box + 1, tl.sum(b_dq * b_w1[None, :], 1).to(p_dbox.dtype.element_ty), mask=m_r)
        tl.store(o_box + 2, tl.sum(b_dq * b_w2[None, :], 1).to(p_dbox.dtype.element_ty), mask=m_r)
        tl.store(o_box + 3, tl.sum(b_dq * b_w3[None, :], 1).to(p_dbox.dtype.element_ty), mask=m_r)

    o_part = i_p.to(tl.int64) * 9 * H + o_h
    tl.store(p_part + o_part, b_dw, mask=m_h)
    tl.store(p_part + o_part + H, b_db, mask=m_h)
    tl.store(p_part + o_part + 2 * H, b_df_bias, mask=m_h)
    tl.store(p_part + o_part + 3 * H, b_dv, mask=m_h)
    tl.store(p_part + o_part + 4 * H, b_dq_bias, mask=m_h)
    tl.store(p_part + o_part + 5 * H, b_dw0, mask=m_h)
    tl.store(p_part + o_part + 6 * H, b_dw1, mask=m_h)
    tl.store(p_part + o_part + 7 * H, b_dw2, mask=m_h)
    tl.store(p_part + o_part + 8 * H, b_dw3, mask=m_h)


def launch_forward(
    feature: Tensor,
    feature_bias: Tensor | None,
    box: Tensor,
    box_weight: Tensor,
    box_bias: Tensor,
    norms: tuple[Tensor, Tensor, Tensor, Tensor],
    eps: float,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor]:
    """y (N, H) and the statistics (4, N) fp32. Arguments: `op.py`."""
    rows, size = feature.shape
    y = torch.empty_like(feature)
    stats = torch.empty(4, rows, dtype=torch.float32, device=feature.device)
    block = power_of_two(size, 64)
    chosen = settings("visual_forward", architecture(feature.device), block)
    programs = programs_for(rows, chosen.rows, feature.device)
    launch(
        visual_forward, (programs,), feature, chosen,
        feature, box if feature_bias is None else feature_bias, box, box_weight, box_bias, *norms, y, stats,
        box if seed is None else seed, rows, programs, eps, site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, HAS_BIAS=feature_bias is not None, DROPOUT=p > 0.0,
    )  # fmt: skip
    return y, stats


def launch_backward(
    dy: Tensor,
    feature: Tensor,
    feature_bias: Tensor | None,
    box: Tensor,
    box_weight: Tensor,
    box_bias: Tensor,
    weights: tuple[Tensor, Tensor],
    stats: Tensor,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of features (N, H) and boxes (N, 4), and the sums (9, H) of `visual_backward`."""
    rows, size = feature.shape
    df, dbox = torch.empty_like(feature), torch.empty_like(box)
    block = power_of_two(size, 64)
    chosen = settings("visual_backward", architecture(feature.device), block)
    programs = programs_for(rows, chosen.rows, feature.device, 3 * ROWS_A_PROGRAM)
    part = torch.empty(programs, 9 * size, dtype=torch.float32, device=feature.device)
    launch(
        visual_backward, (programs,), feature, chosen,
        feature, box if feature_bias is None else feature_bias, box, box_weight, box_bias, *weights, dy,
        stats, df, dbox, part, box if seed is None else seed,
        rows, programs, site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, HAS_BIAS=feature_bias is not None, DROPOUT=p > 0.0,
    )  # fmt: skip
    return df, dbox, launch_sum_partials(part, programs, 1, box_weight.dtype).view(9, size)
