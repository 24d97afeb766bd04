"""dropout(LayerNorm(word(w) + position(i) + segment(s))), forward and backward.

What is fused: three lookups, their sum, LayerNorm and dropout. The sum is never stored: backward looks it up
again from the ids. A tile holds ROWS whole rows, as in `dropout_add_layer_norm`, whose formulas the backward
pass shares; it gives the gradient of the sum, which PyTorch's own lookup gradients then spread over the
tables.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..configs import power_of_two, settings
from ..dispatch import architecture
from ..dropout_add_layer_norm.triton import launch_sum_partials
from ..launch import launch, programs_for
from ..philox import keep_scale, threshold
from ..tiles import keep


@triton.jit
def looked_up(
    p_word, p_position, p_segment, p_ids, p_positions, p_segments, o_r, m_r, o_h, m_rh,
    H: tl.constexpr, HAS_SEGMENTS: tl.constexpr,
):  # fmt: skip
    """The sum of the three vectors, fp32 [ROWS, BLOCK_H]. Without segments everyone is in segment 0."""
    i_word = tl.load(p_ids + o_r, mask=m_r, other=0).to(tl.int64)
    i_position = tl.load(p_positions + o_r, mask=m_r, other=0).to(tl.int64)
    b_s = tl.load(p_word + i_word[:, None] * H + o_h[None, :], mask=m_rh, other=0.0).to(tl.float32)
    b_s += tl.load(p_position + i_position[:, None] * H + o_h[None, :], mask=m_rh, other=0.0).to(tl.float32)
    if HAS_SEGMENTS:
        i_segment = tl.load(p_segments + o_r, mask=m_r, other=0).to(tl.int64)
        b_s += tl.load(p_segment + i_segment[:, None] * H + o_h[None, :], mask=m_rh, other=0.0).to(tl.float32)
    else:
        b_s += tl.load(p_segment + o_h, mask=o_h < H, other=0.0).to(tl.float32)[None, :]
    return b_s


@triton.jit(do_not_specialize=["rows", "site", "threshold"])
def text_forward(
    p_word, p_position, p_segment, p_ids, p_positions, p_segments, p_w, p_b, p_y, p_mean, p_rstd, p_seed,
    rows, eps, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid: (rows / ROWS)."""
    o_r = tl.program_id(0) * ROWS + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    o_h = tl.arange(0, BLOCK_H)
    m_r = o_r < rows
    m_h = o_h < H
    m_rh = m_r[:, None] & m_h[None, :]
    o_rh = o_r[:, None] * H + o_h[None, :]
    b_s = looked_up(
        p_word, p_position, p_segment, p_ids, p_positions, p_segments, o_r, m_r, o_h, m_rh, H, HAS_SEGMENTS
    )  # [ROWS, BLOCK_H]
    b_mean = tl.sum(tl.where(m_rh, b_s, 0.0), 1) / H
    b_c = tl.where(m_rh, b_s - b_mean[:, None], 0.0)
    b_rstd = 1.0 / tl.sqrt_rn(tl.sum(b_c * b_c, 1) / H + eps)
    b_w = tl.load(p_w + o_h, mask=m_h, other=0.0).to(tl.float32)
    b_b = tl.load(p_b + o_h, mask=m_h, other=0.0).to(tl.float32)
    b_y = b_c * b_rstd[:, None] * b_w[None, :] + b_b[None, :]
    if DROPOUT:
        b_y = tl.where(keep(p_seed, site, o_rh, threshold), b_y * keep_scale, 0.0)
    tl.store(p_y + o_rh, b_y.to(p_y.dtype.element_ty), mask=m_rh)
    tl.store(p_mean + o_r, b_mean, mask=m_r)
    tl.store(p_rstd + o_r, b_rstd, mask=m_r)


@triton.jit(do_not_specialize=["rows", "programs", "site", "threshold"])
def text_backward(
    p_word, p_position, p_segment, p_ids, p_positions, p_segments, p_w, p_dy, p_mean, p_rstd, p_ds, p_part,
    p_seed, rows, programs, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    HAS_SEGMENTS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Grid: (programs)."""
    i_p = tl.program_id(0)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    b_w = tl.load(p_w + o_h, mask=m_h, other=0.0).to(tl.float32)
    b_dw = tl.zeros([ROWS, BLOCK_H], tl.float32)
    b_db = tl.zeros([ROWS, BLOCK_H], tl.float32)
    for first_row in range(i_p * ROWS, rows, programs * ROWS):
        o_r = first_row + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        m_r = o_r < rows
        m_rh = m_r[:, None] & m_h[None, :]
        o_rh = o_r[:, None] * H + o_h[None, :]
        b_s = looked_up(
            p_word,
            p_position,
            p_segment,
            p_ids,
            p_positions,
            p_segments,
            o_r,
            m_r,
            o_h,
            m_rh,
            H,
            HAS_SEGMENTS,
        )  # [ROWS, BLOCK_H]
        b_mean = tl.load(p_mean + o_r, mask=m_r, other=0.0)
        b_rstd = tl.load(p_rstd + o_r, mask=m_r, other=0.0)
        b_xhat = tl.where(m_rh, (b_s - b_mean[:, None]) * b_rstd[:, None], 0.0)
        b_dy = tl.load(p_dy + o_rh, mask=m_rh, other=0.0).to(tl.float32)
        if DROPOUT:
            b_dy = tl.where(keep(p_seed, site, o_rh, threshold), b_dy * keep_scale, 0.0)
        b_g = b_dy * b_w[None, :]
        b_mean_g = tl.sum(b_g, 1) / H
        b_mean_gx = tl.sum(b_g * b_xhat, 1) / H
        b_ds = (b_g - b_mean_g[:, None] - b_xhat * b_mean_gx[:, None]) * b_rstd[:, None]
        b_dw += b_dy * b_xhat
        b_db += tl.where(m_rh, b_dy, 0.0)
        tl.store(p_ds + o_rh, b_ds.to(p_ds.dtype.element_ty), mask=m_rh)
    o_part = i_p.to(tl.int64) * 2 * H + o_h
    tl.store(p_part + o_part, tl.sum(b_dw, 0), mask=m_h)
    tl.store(p_part + o_part + H, tl.sum(b_db, 0), mask=m_h)


def launch_forward(
    tables: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor, Tensor | None],
    weight: Tensor,
    shift: Tensor,
    eps: float,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (N, H), mean and 1 / deviation (N,) fp32. Arguments: `op.py`."""
    rows, size = len(ids[0]), weight.shape[0]
    y = torch.empty(rows, size, dtype=tables[0].dtype, device=weight.device)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=weight.device) for _ in range(2))
    block = power_of_two(size, 64)
    chosen = settings("text_forward", architecture(weight.device), block)
    launch(
        text_forward, (triton.cdiv(rows, chosen.rows),), y, chosen,
        *tables, ids[0], ids[1], ids[0] if ids[2] is None else ids[2], weight, shift, y, mean, rstd,
        ids[0] if seed is None else seed, rows, eps, site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, HAS_SEGMENTS=ids[2] is not None, DROPOUT=p > 0.0,
    )  # fmt: skip
    return y, mean, rstd


def launch_backward(
    dy: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    ids: tuple[Tensor, Tensor, Tensor | None],
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of the sum (N, H), and (2, H): dweight, dshift."""
    rows, size = dy.shape
    ds = torch.empty_like(dy)
    block = power_of_two(size, 64)
    chosen = settings("text_backward", architecture(dy.device), block)
    programs = programs_for(rows, chosen.rows, dy.device)
    part = torch.empty(programs, 2 * size, dtype=torch.float32, device=dy.device)
    launch(
        text_backward, (programs,), dy, chosen,
        *tables, ids[0], ids[1], ids[0] if ids[2] is None else ids[2], weight, dy, mean, rstd, ds, part,
        ids[0] if seed is None else seed, rows, programs, site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, HAS_SEGMENTS=ids[2] is not None, DROPOUT=p > 0.0,
    )  # fmt: skip
    return ds, launch_sum_partials(part, programs, 1, weight.dtype).view(2, size)
