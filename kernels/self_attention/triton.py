"""Attention over short rows, forward and backward: one kernel for every kind of attention in LXMERT.

    s = scale * q k^T + bias      p = softmax(s)      out = dropout(p) v

What is fused: scores, masks, softmax, dropout and both products; no score leaves the chip. An attention is a
table of *meetings* (`meetings.py`): some query rows meet some key rows. Self-attention meets rows with
themselves, cross attention has a meeting a pair and direction, an image that is shared is named by many. So
every direction and both streams are one launch, and no row is copied to be read.

Tiles, of one program (a meeting and a head); T <= 64 texts or O <= 100 boxes fit a tile of keys, so the
softmax is complete and needs no rescaling:

              keys (BLOCK_K)                 D
            +----------------+            +-----+
    ROWS of |  s, p          |  x   v     |     |  keys
    queries |                |            +-----+
    (loop)  +----------------+  =>  out: ROWS x D

Backward computes p again from q and k:

    dv = dropout(p)^T do     dp = dropout(do v^T)     ds = scale * p * (dp - rowsum(p * dp))
    dq = ds k                dk = ds^T q

dk and dv stay in registers over the loop and are written once, by the only program that owns them.

Small tiles are HELD: k and v are loaded once. Where that would spill registers, a product over D reads its
factors BLOCK_W columns at a time, again for every tile of queries. In backward a
program then owns BLOCK_W columns of dq, dk and dv, and there are more programs, which all compute s and dp.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..configs import Settings, attention_key, power_of_two, settings
from ..dispatch import architecture
from ..launch import launch
from ..philox import keep_scale, threshold
from ..tiles import keep, sum_readers

# a counter an element of p: [meeting, head, query, key], with room for this many queries and keys
COUNTERS = tl.constexpr(128)


@triton.jit
def product(
    p_a, o_a, m_a, p_b, o_b, m_b,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """a b^T of rows that start at these offsets, BLOCK_W columns at a time, fp32 [ROWS, BLOCK_K]."""
    b_sum = tl.zeros([ROWS, BLOCK_K], tl.float32)
    for first in range(0, BLOCK_D, BLOCK_W):
        o_w = first + tl.arange(0, BLOCK_W)
        m_w = o_w < D
        b_a = tl.load(p_a + o_a[:, None] + o_w[None, :], mask=m_a[:, None] & m_w[None, :], other=0.0)
        b_b = tl.load(p_b + o_b[:, None] + o_w[None, :], mask=m_b[:, None] & m_w[None, :], other=0.0)
        b_sum += tl.dot(b_a, tl.trans(b_b), input_precision=PRECISION)
    return b_sum


@triton.jit
def probabilities(
    b_s, p_bias, i_m, bias_stride, scale, o_k, m_k,
    HAS_BIAS: tl.constexpr, HALF_BIAS: tl.constexpr,
):  # fmt: skip
    """softmax(scale * s + bias) of a tile [ROWS, BLOCK_K] of s = q k^T; a row without any key is 0."""
    b_s *= scale
    if HAS_BIAS:
        b_bias = tl.load(p_bias + i_m * bias_stride + o_k, mask=m_k, other=0.0).to(tl.float32)
        # fp16's smallest value would not swallow a score; -inf would divide 0 by 0
        b_s += (b_bias * 1e30 if HALF_BIAS else b_bias)[None, :]
    b_s = tl.where(m_k[None, :], b_s, float("-inf"))
    b_max = tl.max(b_s, 1)
    b_e = tl.exp(b_s - tl.where(b_max == float("-inf"), 0.0, b_max)[:, None])
    b_sum = tl.sum(b_e, 1)
    return b_e / tl.where(b_sum == 0.0, 1.0, b_sum)[:, None]


@triton.jit(do_not_specialize=["bias_stride", "site", "threshold"])
def attention_forward(
    p_q, p_k, p_v, p_out, p_table, p_bias, p_seed,
    q_stride, k_stride, out_stride, bias_stride, scale, site, threshold, keep_scale,
    HEADS: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr, HELD: tl.constexpr,
    HAS_BIAS: tl.constexpr, HALF_BIAS: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (meetings, heads)."""
    i_m = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    p_entry = p_table + i_m * 6
    q_from, q_to, q_length = tl.load(p_entry), tl.load(p_entry + 1), tl.load(p_entry + 2)
    k_from, k_length = tl.load(p_entry + 3), tl.load(p_entry + 5)

    o_k = tl.arange(0, BLOCK_K)
    o_d = tl.arange(0, BLOCK_D)
    m_k = o_k < k_length
    m_d = o_d < D
    o_from = (k_from + o_k) * k_stride + i_h * D
    if HELD:
        o_kd = o_from[:, None] + o_d[None, :]
        m_kd = m_k[:, None] & m_d[None, :]
        b_k = tl.load(p_k + o_kd, mask=m_kd, other=0.0)  # [BLOCK_K, BLOCK_D]
        b_v = tl.load(p_v + o_kd, mask=m_kd, other=0.0)  # [BLOCK_K, BLOCK_D]

    for start in range(0, q_length, ROWS):
        o_q = start + tl.arange(0, ROWS)
        m_q = o_q < q_length
        m_qd = m_q[:, None] & m_d[None, :]
        o_row = (q_from + o_q) * q_stride + i_h * D
        o_out = (q_to + o_q) * out_stride + i_h * D
        if HELD:
            b_q = tl.load(p_q + o_row[:, None] + o_d[None, :], mask=m_qd, other=0.0)  # [ROWS, BLOCK_D]
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [ROWS, BLOCK_K]
        else:
            b_s = product(p_q, o_row, m_q, p_k, o_from, m_k, D, ROWS, BLOCK_K, BLOCK_D, BLOCK_W, PRECISION)
        b_p = probabilities(b_s, p_bias, i_m, bias_stride, scale, o_k, m_k, HAS_BIAS, HALF_BIAS)
        if DROPOUT:
            o_counter = ((i_m * HEADS + i_h) * COUNTERS + o_q[:, None]) * COUNTERS + o_k[None, :]
            b_p = tl.where(keep(p_seed, site, o_counter, threshold), b_p * keep_scale, 0.0)
        b_p = b_p.to(p_v.dtype.element_ty)
        if HELD:
            b_out = tl.dot(b_p, b_v, input_precision=PRECISION)  # [ROWS, BLOCK_D]
            tl.store(p_out + o_out[:, None] + o_d[None, :], b_out.to(p_out.dtype.element_ty), mask=m_qd)
        else:
            for first in range(0, BLOCK_D, BLOCK_W):
                o_w = first + tl.arange(0, BLOCK_W)
                m_w = (o_w < D)[None, :]
                b_vw = tl.load(p_v + o_from[:, None] + o_w[None, :], mask=m_k[:, None] & m_w, other=0.0)
                b_out = tl.dot(b_p, b_vw, input_precision=PRECISION)  # [ROWS, BLOCK_W]
                o_rw = o_out[:, None] + o_w[None, :]
                tl.store(p_out + o_rw, b_out.to(p_out.dtype.element_ty), mask=m_q[:, None] & m_w)


@triton.jit(do_not_specialize=["bias_stride", "site", "threshold"])
def attention_backward(
    p_q, p_k, p_v, p_do, p_dq, p_dk, p_dv, p_table, p_bias, p_seed,
    q_stride, k_stride, do_stride, dq_stride, dk_stride, bias_stride, scale, site, threshold, keep_scale,
    HEADS: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_W: tl.constexpr, HELD: tl.constexpr,
    HAS_BIAS: tl.constexpr, HALF_BIAS: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: (meetings, heads, columns of a head / BLOCK_W)."""
    i_m = tl.program_id(0).to(tl.int64)
    i_h = tl.program_id(1)
    p_entry = p_table + i_m * 6
    q_from, q_to, q_length = tl.load(p_entry), tl.load(p_entry + 1), tl.load(p_entry + 2)
    k_from, k_to, k_length = tl.load(p_entry + 3), tl.load(p_entry + 4), tl.load(p_entry + 5)

    o_k = tl.arange(0, BLOCK_K)
    o_w = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)  # columns of this program
    m_k = o_k < k_length
    m_w = o_w < D
    m_kw = m_k[:, None] & m_w[None, :]
    o_from = (k_from + o_k) * k_stride + i_h * D
    o_kw = o_from[:, None] + o_w[None, :]
    if HELD:
        b_k = tl.load(p_k + o_kw, mask=m_kw, other=0.0)  # [BLOCK_K, BLOCK_W]
        b_v = tl.load(p_v + o_kw, mask=m_kw, other=0.0)  # [BLOCK_K, BLOCK_W]
    b_dk = tl.zeros([BLOCK_K, BLOCK_W], tl.float32)
    b_dv = tl.zeros([BLOCK_K, BLOCK_W], tl.float32)

    for start in range(0, q_length, ROWS):
        o_q = start + tl.arange(0, ROWS)
        m_q = o_q < q_length
        m_qw = m_q[:, None] & m_w[None, :]
        o_row = (q_from + o_q) * q_stride + i_h * D
        o_do = (q_to + o_q) * do_stride + i_h * D
        if DROPOUT:
            # before there are scores, since the generator takes as many registers as they do
            o_counter = ((i_m * HEADS + i_h) * COUNTERS + o_q[:, None]) * COUNTERS + o_k[None, :]
            m_keep = keep(p_seed, site, o_counter, threshold)  # [ROWS, BLOCK_K]
        if HELD:
            b_q = tl.load(p_q + o_row[:, None] + o_w[None, :], mask=m_qw, other=0.0)  # [ROWS, BLOCK_W]
            b_do = tl.load(p_do + o_do[:, None] + o_w[None, :], mask=m_qw, other=0.0)  # [ROWS, BLOCK_W]
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)  # [ROWS, BLOCK_K]
            b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)  # [ROWS, BLOCK_K]
        else:
            b_s = product(p_q, o_row, m_q, p_k, o_from, m_k, D, ROWS, BLOCK_K, BLOCK_D, BLOCK_W, PRECISION)
            b_dp = product(p_do, o_do, m_q, p_v, o_from, m_k, D, ROWS, BLOCK_K, BLOCK_D, BLOCK_W, PRECISION)
            b_q = tl.load(p_q + o_row[:, None] + o_w[None, :], mask=m_qw, other=0.0)  # [ROWS, BLOCK_W]
            b_do = tl.load(p_do + o_do[:, None] + o_w[None, :], mask=m_qw, other=0.0)  # [ROWS, BLOCK_W]
            b_k = tl.load(p_k + o_kw, mask=m_kw, other=0.0)  # [BLOCK_K, BLOCK_W]
        b_p = probabilities(b_s, p_bias, i_m, bias_stride, scale, o_k, m_k, HAS_BIAS, HALF_BIAS)
        b_kept = b_p
        if DROPOUT:
            b_kept = tl.where(m_keep, b_p * keep_scale, 0.0)
            b_dp = tl.where(m_keep, b_dp * keep_scale, 0.0)
        b_dv += tl.dot(tl.trans(b_kept.to(b_do.dtype)), b_do, input_precision=PRECISION)
        b_ds = b_p * (b_dp - tl.sum(b_p * b_dp, 1)[:, None]) * scale
        b_ds = b_ds.to(b_q.dtype)
        b_dk += tl.dot(tl.trans(b_ds), b_q, input_precision=PRECISION)
        b_dq = tl.dot(b_ds, b_k, input_precision=PRECISION)  # [ROWS, BLOCK_W]
        o_dq = (q_to + o_q)[:, None] * dq_stride + i_h * D + o_w[None, :]
        tl.store(p_dq + o_dq, b_dq.to(p_dq.dtype.element_ty), mask=m_qw)

    o_to = (k_to + o_k)[:, None] * dk_stride + i_h * D + o_w[None, :]
    tl.store(p_dk + o_to, b_dk.to(p_dk.dtype.element_ty), mask=m_kw)
    tl.store(p_dv + o_to, b_dv.to(p_dv.dtype.element_ty), mask=m_kw)


def launch_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    written: int,
    most: tuple[int, int],
) -> Tensor:
    """Contexts (written, H); rows that no meeting writes are left as they are.

    Arguments: `op.py`. Query, key and value may be columns of one buffer.
    """
    out = torch.empty(written, query.shape[1], dtype=query.dtype, device=query.device)
    chosen, constants = _constants("attention_forward", query, bias, p, heads, most)
    launch(
        attention_forward, (len(table), heads), query, chosen,
        query, key, value, out, table, query if bias is None else bias, table if seed is None else seed,
        query.stride(0), key.stride(0), out.stride(0), 0 if bias is None else bias.stride(0),
        1 / math.sqrt(query.shape[1] // heads), site, threshold(p), keep_scale(p), **constants,
    )  # fmt: skip
    return out


def launch_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    site: int,
    p: float,
    heads: int,
    most: tuple[int, int],
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write the gradients of query, key and value `into` rows (written, H), columns of one buffer or not."""
    dq, dk, dv = into
    chosen, constants = _constants("attention_backward", query, bias, p, heads, most)
    slices = triton.cdiv(constants["BLOCK_D"], constants["BLOCK_W"])
    launch(
        attention_backward, (len(table), heads, slices), query, chosen,
        query, key, value, grad, dq, dk, dv,
        table, query if bias is None else bias, table if seed is None else seed,
        query.stride(0), key.stride(0), grad.stride(0), dq.stride(0), dk.stride(0),
        0 if bias is None else bias.stride(0),
        1 / math.sqrt(query.shape[1] // heads), site, threshold(p), keep_scale(p), **constants,
    )  # fmt: skip


def launch_sum_readers(x: Tensor, starts: Tensor, rows: Tensor) -> Tensor:
    """(N, W) to (R, W): at each row the sum of those that read it."""
    out = torch.empty(len(starts) - 1, x.shape[1], dtype=x.dtype, device=x.device)
    block = 1024
    chosen = settings("sum_readers", architecture(x.device), block)
    grid = (len(out), triton.cdiv(x.shape[1], block))
    launch(sum_readers, grid, x, chosen, x, starts, rows, out, WIDTH=x.shape[1], BLOCK=block)
    return out


def _constants(
    kernel: str, query: Tensor, bias: Tensor | None, p: float, heads: int, most: tuple[int, int]
) -> tuple[Settings, dict[str, Any]]:
    width = query.shape[1] // heads
    key = attention_key(most[1], width, query.element_size())
    block_k, block_d, _ = key
    chosen = settings(kernel, architecture(query.device), *key)
    return chosen, {
        "HEADS": heads,
        "D": width,
        "ROWS": min(chosen.rows, power_of_two(most[0])),
        "BLOCK_K": block_k,
        "BLOCK_D": block_d,
        "BLOCK_W": min(chosen.columns or block_d, block_d),
        "HELD": chosen.columns == 0,
        "HAS_BIAS": bias is not None,
        "HALF_BIAS": bias is not None and bias.dtype is torch.float16,
        "DROPOUT": p > 0.0,
        # fp32 is for parity: TensorFloat-32 would lose half of its digits
        "PRECISION": "ieee",
    }
