"""LayerNorm(dropout(x + bias) + residual), forward and backward, of one stream or of both in one launch.

    s = dropout(x + bias) + residual      x^ = (s - mean) / sqrt(var + eps)      y = w x^ + b

What is fused: the bias of the product before, dropout, the residual sum, the statistics and the scaling.
Eager PyTorch reads and writes a hidden state seven times for it and a mask twice, this kernel three times.

A tile holds ROWS whole rows, so statistics are sums within it, in fp32:

              H
          +---------+      the tiles of the first `split` rows use the first stream's bias, w and b, those
    ROWS  | x  res  |      after it the second stream's; no tile crosses the border
          +---------+

Backward, with g = w dy, and x^ = (y - b) / w from the output, which the next product keeps anyway (where a
weight is too small for that, from s, which is then kept):

    ds = (g - mean(g) - x^ mean(g x^)) / sqrt(var + eps)      dresidual = ds      dx = dropout(ds)
    dw = sum dy x^      db = sum dy      dbias = sum dx

A program walks over tiles with the three sums in registers; `tiles.sum_partials` adds the programs' sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..configs import power_of_two, settings
from ..dispatch import architecture
from ..launch import launch, programs_for
from ..philox import keep_scale, threshold
from ..tiles import keep, sum_partials
from .parameters import Parameters


@triton.jit
def either(p_first, p_second, o_h, is_first, H: tl.constexpr, TWO: tl.constexpr):
    """A parameter of the stream that a tile belongs to, fp32 [BLOCK_H]; the other's is not read."""
    if TWO:
        width = tl.where(is_first, H, 0)
        b_second = tl.load(p_second + o_h, mask=o_h < H - width, other=0.0).to(tl.float32)
        return tl.load(p_first + o_h, mask=o_h < width, other=0.0).to(tl.float32) + b_second
    else:  # noqa: RET505 (Triton compiles both branches of an `if` without `else`)
        return tl.load(p_first + o_h, mask=o_h < H, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "split", "first_tiles", "site", "threshold"])
def norm_forward(
    p_x, p_res, p_bias1, p_bias2, p_w1, p_w2, p_b1, p_b2, p_y, p_s, p_mean, p_rstd, p_seed,
    rows, split, first_tiles, eps, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    HAS_BIAS: tl.constexpr, TWO: tl.constexpr, DROPOUT: tl.constexpr, KEEP_S: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles of the first stream, then of the second)."""
    i_t = tl.program_id(0)
    is_first = i_t < first_tiles
    start = tl.where(is_first, i_t * ROWS, split + (i_t - first_tiles) * ROWS)
    end = tl.where(is_first, split, rows)
    o_r = start + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    o_h = tl.arange(0, BLOCK_H)
    m_r = o_r < end
    m_h = o_h < H
    m_rh = m_r[:, None] & m_h[None, :]
    o_rh = o_r[:, None] * H + o_h[None, :]

    b_s = tl.load(p_x + o_rh, mask=m_rh, other=0.0).to(tl.float32)  # [ROWS, BLOCK_H]
    if HAS_BIAS:
        b_s += either(p_bias1, p_bias2, o_h, is_first, H, TWO)[None, :]
    if DROPOUT:
        b_s = tl.where(keep(p_seed, site, o_rh, threshold), b_s * keep_scale, 0.0)
    b_s += tl.load(p_res + o_rh, mask=m_rh, other=0.0).to(tl.float32)

    b_mean = tl.sum(tl.where(m_rh, b_s, 0.0), 1) / H  # [ROWS]
    b_c = tl.where(m_rh, b_s - b_mean[:, None], 0.0)
    b_rstd = 1.0 / tl.sqrt_rn(tl.sum(b_c * b_c, 1) / H + eps)  # [ROWS]
    b_w = either(p_w1, p_w2, o_h, is_first, H, TWO)
    b_b = either(p_b1, p_b2, o_h, is_first, H, TWO)
    b_y = b_c * b_rstd[:, None] * b_w[None, :] + b_b[None, :]

    tl.store(p_y + o_rh, b_y.to(p_y.dtype.element_ty), mask=m_rh)
    if KEEP_S:
        tl.store(p_s + o_rh, b_s.to(p_s.dtype.element_ty), mask=m_rh)
    tl.store(p_mean + o_r, b_mean, mask=m_r)
    tl.store(p_rstd + o_r, b_rstd, mask=m_r)


@triton.jit(do_not_specialize=["rows", "split", "first_programs", "programs", "site", "threshold"])
def norm_backward(
    p_dy, p_kept, p_mean, p_rstd, p_w1, p_w2, p_b1, p_b2, p_dx, p_dres, p_part, p_seed,
    rows, split, first_programs, programs, site, threshold, keep_scale,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK_H: tl.constexpr,
    TWO: tl.constexpr, DROPOUT: tl.constexpr, FROM_S: tl.constexpr, SAME: tl.constexpr,
):  # fmt: skip
    """Grid: (programs of the first stream, then of the second). SAME: dx is dresidual, written once."""
    i_p = tl.program_id(0)
    is_first = i_p < first_programs
    i_own = tl.where(is_first, i_p, i_p - first_programs)
    own = tl.where(is_first, first_programs, programs - first_programs)
    start = tl.where(is_first, 0, split) + i_own * ROWS
    end = tl.where(is_first, split, rows)
    o_h = tl.arange(0, BLOCK_H)
    m_h = o_h < H
    b_w = either(p_w1, p_w2, o_h, is_first, H, TWO)
    b_b = either(p_b1, p_b2, o_h, is_first, H, TWO)
    b_dw = tl.zeros([ROWS, BLOCK_H], tl.float32)
    b_db = tl.zeros([ROWS, BLOCK_H], tl.float32)
    b_dbias = tl.zeros([ROWS, BLOCK_H], tl.float32)

    for first_row in range(start, end, own * ROWS):
        o_r = first_row + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        m_r = o_r < end
        m_rh = m_r[:, None] & m_h[None, :]
        o_rh = o_r[:, None] * H + o_h[None, :]
        b_dy = tl.load(p_dy + o_rh, mask=m_rh, other=0.0).to(tl.float32)  # [ROWS, BLOCK_H]
        b_kept = tl.load(p_kept + o_rh, mask=m_rh, other=0.0).to(tl.float32)
        b_rstd = tl.load(p_rstd + o_r, mask=m_r, other=0.0)
        if FROM_S:
            b_mean = tl.load(p_mean + o_r, mask=m_r, other=0.0)
            b_xhat = (b_kept - b_mean[:, None]) * b_rstd[:, None]
        else:
            b_xhat = (b_kept - b_b[None, :]) / tl.where(m_h, b_w, 1.0)[None, :]
        b_xhat = tl.where(m_rh, b_xhat, 0.0)
        b_g = b_dy * b_w[None, :]
        b_mean_g = tl.sum(b_g, 1) / H
        b_mean_gx = tl.sum(b_g * b_xhat, 1) / H
        b_ds = (b_g - b_mean_g[:, None] - b_xhat * b_mean_gx[:, None]) * b_rstd[:, None]
        b_dx = b_ds
        if DROPOUT:
            b_dx = tl.where(keep(p_seed, site, o_rh, threshold), b_ds * keep_scale, 0.0)
        b_dw += b_dy * b_xhat
        b_db += b_dy
        b_dbias += tl.where(m_rh, b_dx, 0.0)
        if not SAME:
            tl.store(p_dx + o_rh, b_dx.to(p_dx.dtype.element_ty), mask=m_rh)
        tl.store(p_dres + o_rh, b_ds.to(p_dres.dtype.element_ty), mask=m_rh)

    o_part = i_p.to(tl.int64) * 3 * H + o_h
    tl.store(p_part + o_part, tl.sum(b_dw, 0), mask=m_h)
    tl.store(p_part + o_part + H, tl.sum(b_db, 0), mask=m_h)
    tl.store(p_part + o_part + 2 * H, tl.sum(b_dbias, 0), mask=m_h)


def launch_forward(
    x: Tensor,
    residual: Tensor,
    first: Parameters,
    second: Parameters | None,
    split: int,
    eps: float,
    seed: Tensor | None,
    site: int,
    p: float,
    keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (N, H) in the residual's dtype, s or (0,), mean and 1 / deviation (N,) fp32. Arguments: `op.py`."""
    rows, size = x.shape
    y = torch.empty_like(residual)
    s = torch.empty(residual.shape if keep_sum else (0,), dtype=residual.dtype, device=x.device)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    block = power_of_two(size, 64)
    chosen = settings("norm_forward", architecture(x.device), block)
    tiles = [triton.cdiv(split, chosen.rows), triton.cdiv(rows - split, chosen.rows)]
    two = first if second is None else second
    launch(
        norm_forward, (sum(tiles),), x, chosen,
        x, residual, _or(first.bias, x), _or(two.bias, x), first.weight, two.weight, first.shift, two.shift,
        y, s, mean, rstd, _or(seed, x), rows, split, tiles[0], eps, site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, HAS_BIAS=first.bias is not None, TWO=second is not None,
        DROPOUT=p > 0.0, KEEP_S=keep_sum,
    )  # fmt: skip
    return y, s, mean, rstd


def launch_backward(
    dy: Tensor,
    x_dtype: torch.dtype,
    y: Tensor,
    s: Tensor,
    mean: Tensor,
    rstd: Tensor,
    first: Parameters,
    second: Parameters | None,
    split: int,
    seed: Tensor | None,
    site: int,
    p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (or (0,) where it is dresidual), dresidual and the sums (streams, 3, H): dw, db, dbias."""
    rows, size = y.shape
    same = p == 0.0 and x_dtype == y.dtype
    dres = torch.empty_like(y)
    dx = torch.empty((0,) if same else y.shape, dtype=x_dtype, device=y.device)
    block = power_of_two(size, 64)
    chosen = settings("norm_backward", architecture(y.device), block)
    programs = [programs_for(n, chosen.rows, y.device) for n in (split, rows - split)]
    part = torch.empty(sum(programs), 3 * size, dtype=torch.float32, device=y.device)
    two = first if second is None else second
    launch(
        norm_backward, (sum(programs),), y, chosen,
        dy, s if s.numel() else y, mean, rstd, first.weight, two.weight, first.shift, two.shift,
        dx, dres, part, _or(seed, y),
        rows, split, programs[0], sum(programs), site, threshold(p), keep_scale(p),
        H=size, ROWS=chosen.rows, BLOCK_H=block, TWO=second is not None, DROPOUT=p > 0.0,
        FROM_S=s.numel() > 0, SAME=same,
    )  # fmt: skip
    streams = 1 if second is None else 2
    return (
        dx,
        dres,
        launch_sum_partials(part, programs[0], streams, first.weight.dtype).view(streams, 3, size),
    )


def launch_sum_partials(part: Tensor, split: int, streams: int, dtype: torch.dtype) -> Tensor:
    """(programs, W) fp32 to (streams, W): the sum of the first `split`, and of the others."""
    programs, width = part.shape
    out = torch.empty(streams, width, dtype=dtype, device=part.device)
    block = 128
    chosen = settings("sum_partials", architecture(part.device), block)
    launch(
        sum_partials, (triton.cdiv(width, block), streams), part, chosen,
        part, out, split, programs, WIDTH=width, ROWS=chosen.rows, BLOCK=block,
    )  # fmt: skip
    return out


def _or(given: Tensor | None, other: Tensor) -> Tensor:
    """A pointer that is not read needs some tensor."""
    return other if given is None else given
