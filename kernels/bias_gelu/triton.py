"""gelu(x + bias), exact, forward and backward, of one stream or of both in one launch.

    u = x + bias      y = u Phi(u)      Phi(u) = (1 + erf(u / sqrt 2)) / 2
    du = dy (Phi(u) + u phi(u))         phi(u) = exp(-u^2 / 2) / sqrt(2 pi)

What is fused: the bias of the product before. Backward gets x, not y: it gives dx and y again in one pass,
since the gradient of the next product's weights needs y, and neither u nor y is kept. dbias = sum dx.

A tile is ROWS rows by BLOCK columns; it meets one stretch of the bias. Its first `split` rows belong to the
first stream, as in `dropout_add_layer_norm`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..configs import settings
from ..dispatch import architecture
from ..dropout_add_layer_norm.triton import either, launch_sum_partials
from ..launch import launch, programs_for

BLOCK = 256
SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_TAU = tl.constexpr(0.3989422804014327)


@triton.jit(do_not_specialize=["rows", "split", "first_tiles"])
def gelu_forward(
    p_x, p_bias1, p_bias2, p_y, rows, split, first_tiles,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, TWO: tl.constexpr,
):  # fmt: skip
    """Grid: (tiles of the first stream, then of the second; columns / BLOCK)."""
    i_t = tl.program_id(0)
    is_first = i_t < first_tiles
    start = tl.where(is_first, i_t * ROWS, split + (i_t - first_tiles) * ROWS)
    o_r = start + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
    o_h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_h = o_h < H
    m_rh = (o_r < tl.where(is_first, split, rows))[:, None] & m_h[None, :]
    o_rh = o_r[:, None] * H + o_h[None, :]
    b_u = tl.load(p_x + o_rh, mask=m_rh, other=0.0).to(tl.float32)  # [ROWS, BLOCK]
    if HAS_BIAS:
        b_u += either(p_bias1, p_bias2, o_h, is_first, H, TWO)[None, :]
    b_y = 0.5 * b_u * (1.0 + tl.erf(b_u * SQRT_HALF))
    tl.store(p_y + o_rh, b_y.to(p_y.dtype.element_ty), mask=m_rh)


@triton.jit(do_not_specialize=["rows", "split", "first_programs", "programs"])
def gelu_backward(
    p_x, p_bias1, p_bias2, p_dy, p_dx, p_y, p_part, rows, split, first_programs, programs,
    H: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr, TWO: tl.constexpr, WANT_Y: tl.constexpr,
):  # fmt: skip
    """Grid: (programs of the first stream, then of the second; columns / BLOCK)."""
    i_p = tl.program_id(0)
    is_first = i_p < first_programs
    i_own = tl.where(is_first, i_p, i_p - first_programs)
    own = tl.where(is_first, first_programs, programs - first_programs)
    start = tl.where(is_first, 0, split) + i_own * ROWS
    end = tl.where(is_first, split, rows)
    o_h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_h = o_h < H
    b_bias = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        b_bias = either(p_bias1, p_bias2, o_h, is_first, H, TWO)
    b_dbias = tl.zeros([ROWS, BLOCK], tl.float32)
    for first_row in range(start, end, own * ROWS):
        o_r = first_row + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        m_rh = (o_r < end)[:, None] & m_h[None, :]
        o_rh = o_r[:, None] * H + o_h[None, :]
        b_u = tl.load(p_x + o_rh, mask=m_rh, other=0.0).to(tl.float32) + b_bias[None, :]  # [ROWS, BLOCK]
        b_dy = tl.load(p_dy + o_rh, mask=m_rh, other=0.0).to(tl.float32)
        b_phi = 0.5 * (1.0 + tl.erf(b_u * SQRT_HALF))
        b_dx = b_dy * (b_phi + b_u * tl.exp(-0.5 * b_u * b_u) * INVERSE_SQRT_TAU)
        b_dbias += b_dx
        tl.store(p_dx + o_rh, b_dx.to(p_dx.dtype.element_ty), mask=m_rh)
        if WANT_Y:
            tl.store(p_y + o_rh, (b_u * b_phi).to(p_y.dtype.element_ty), mask=m_rh)
    if HAS_BIAS:
        tl.store(p_part + i_p.to(tl.int64) * H + o_h, tl.sum(b_dbias, 0), mask=m_h)


def launch_forward(x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int) -> Tensor:
    """(N, H) to (N, H). Arguments: `op.py`."""
    rows, size = x.shape
    y = torch.empty_like(x)
    chosen = settings("gelu_forward", architecture(x.device), BLOCK)
    tiles = [triton.cdiv(split, chosen.rows), triton.cdiv(rows - split, chosen.rows)]
    first = x if bias is None else bias
    launch(
        gelu_forward, (sum(tiles), triton.cdiv(size, BLOCK)), x, chosen,
        x, first, first if bias2 is None else bias2, y, rows, split, tiles[0],
        H=size, ROWS=chosen.rows, BLOCK=BLOCK, HAS_BIAS=bias is not None, TWO=bias2 is not None,
    )  # fmt: skip
    return y


def launch_backward(
    dy: Tensor, x: Tensor, bias: Tensor | None, bias2: Tensor | None, split: int, want_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx (N, H), y (N, H) or (0,), dbias (streams, H) or (0,)."""
    rows, size = x.shape
    dx = torch.empty_like(x)
    y = torch.empty(x.shape if want_y else (0,), dtype=x.dtype, device=x.device)
    chosen = settings("gelu_backward", architecture(x.device), BLOCK)
    programs = [programs_for(n, chosen.rows, x.device) for n in (split, rows - split)]
    part = torch.empty(sum(programs) if bias is not None else 0, size, dtype=torch.float32, device=x.device)
    first = x if bias is None else bias
    launch(
        gelu_backward, (sum(programs), triton.cdiv(size, BLOCK)), x, chosen,
        x, first, first if bias2 is None else bias2, dy, dx, y, part, rows, split, programs[0], sum(programs),
        H=size, ROWS=chosen.rows, BLOCK=BLOCK,
        HAS_BIAS=bias is not None, TWO=bias2 is not None, WANT_Y=want_y,
    )  # fmt: skip
    if bias is None:
        return dx, y, part[:, :0].flatten()
    return dx, y, launch_sum_partials(part, programs[0], 1 if bias2 is None else 2, bias.dtype)
