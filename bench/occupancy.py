"""How many blocks of a kernel an NVIDIA multiprocessor holds at once, from what a block needs.

Limits are those of the CUDA C++ Programming Guide's table of compute capabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

KB = 1024
#: Registers are given to a warp in steps of this many.
REGISTER_STEP = 256
#: Shared memory is given to a block in steps of this many bytes, after what the system keeps of it.
SHARED_STEP, SHARED_KEPT = 128, 1 * KB
#: The columns of tensor memory, where a multiprocessor has it.
TENSOR_COLUMNS = 512
#: The quarters of a multiprocessor have registers of their own; a warp stays in one.
QUARTERS = 4


@dataclass(frozen=True)
class Architecture:
    """Limits of one multiprocessor, and of a block where it says so."""

    warps: int
    blocks: int
    shared: int
    """Bytes of all blocks together."""
    registers: int = 64 * KB

    @property
    def block_shared(self) -> int:
        """Bytes that one block may ask for."""
        return self.shared - SHARED_KEPT


ARCHITECTURES = {
    80: Architecture(warps=64, blocks=32, shared=164 * KB),
    90: Architecture(warps=64, blocks=32, shared=228 * KB),
    100: Architecture(warps=64, blocks=32, shared=228 * KB),
    120: Architecture(warps=48, blocks=24, shared=100 * KB),
}


class Occupancy(NamedTuple):
    """Of one multiprocessor."""

    blocks: int
    warps: float
    """Share of the warps that it could hold."""


def occupancy(arch: int, warps: int, registers: int, shared: int, tensor_columns: int = 0) -> Occupancy:
    """Blocks at once, and the share of warps.

    Args:
        arch: a key of `ARCHITECTURES`.
        warps: of a block.
        registers: of a thread.
        shared: bytes of a block.
        tensor_columns: of a block.
    """
    limits = ARCHITECTURES[arch]
    a_warp = _up(32 * registers, REGISTER_STEP)
    # a quarter holds whole warps: what two quarters have left over does not add up to one
    by_registers = QUARTERS * (limits.registers // QUARTERS // a_warp) // warps
    by_shared = limits.shared // _up(shared + SHARED_KEPT, SHARED_STEP)
    by_columns = TENSOR_COLUMNS // tensor_columns if tensor_columns else limits.blocks
    blocks = min(limits.blocks, limits.warps // warps, by_registers, by_shared, by_columns)
    return Occupancy(blocks, blocks * warps / limits.warps)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
