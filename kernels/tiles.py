"""What Triton kernels share: the dropout mask of a tile, and the sums that a backward pass leaves.

Names in kernels: `p_` pointers, `o_` offsets, `m_` masks, `b_` values of a tile, `i_` program indices; each
tile has its shape beside it. Addresses are int64. Nothing is added atomically: a program writes its part of
a sum, and a second kernel adds the parts in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def keep(p_seed, site, o_counter, threshold):
    """Whether the elements with these counters stay; `philox.py` says which."""
    bits = tl.randint(tl.load(p_seed) + site, o_counter, 7)
    return bits.to(tl.int32, bitcast=True) >= threshold


@triton.jit(do_not_specialize=["split", "programs"])
def sum_partials(
    p_part, p_sum, split, programs, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    """Add the parts of each stream: (programs, WIDTH) fp32 to (2, WIDTH), the first `split` parts apart.

    Grid: (columns / BLOCK, streams).
    """
    o_c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    i_stream = tl.program_id(1)
    first = i_stream * split
    last = tl.where(i_stream == 0, split, programs)
    m_c = o_c < WIDTH
    b_sum = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(first, last, ROWS):
        o_r = start + tl.arange(0, ROWS).to(tl.int64)  # [ROWS]
        b_sum += tl.load(
            p_part + o_r[:, None] * WIDTH + o_c[None, :], mask=(o_r < last)[:, None] & m_c[None, :], other=0.0
        )
    tl.store(p_sum + i_stream * WIDTH + o_c, tl.sum(b_sum, 0).to(p_sum.dtype.element_ty), mask=m_c)


@triton.jit
def sum_readers(p_x, p_start, p_reader, p_sum, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """sum[r] = the x of the rows that read r, in order. Grid: (rows, columns / BLOCK)."""
    i_r = tl.program_id(0).to(tl.int64)
    o_c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    m_c = o_c < WIDTH
    b_sum = tl.zeros([BLOCK], tl.float32)
    for i in range(tl.load(p_start + i_r), tl.load(p_start + i_r + 1)):
        i_reader = tl.load(p_reader + i)
        b_sum += tl.load(p_x + i_reader * WIDTH + o_c, mask=m_c, other=0.0).to(tl.float32)
    tl.store(p_sum + i_r * WIDTH + o_c, b_sum.to(p_sum.dtype.element_ty), mask=m_c)
