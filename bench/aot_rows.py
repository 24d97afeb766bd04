"""What the compiler made of a kernel, and what is wrong with it.

A compiled kernel tells registers, spills, shared memory, how many blocks fit a multiprocessor, and whether
the matrix units are used. Speed it does not tell.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .aot_specs import Spec
from .occupancy import ARCHITECTURES, Occupancy, occupancy

#: Families of matrix instructions, as they stand in PTX.
FAMILIES = {"mma.sync": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
#: The family of results with 64 rows or more, where it is not mma.sync.
OF_64_ROWS = {90: "wgmma", 100: "tcgen05"}
MOST_REGISTERS = 255


@dataclass(frozen=True)
class Row:
    """What the compiler made of one kernel; zeros where it failed."""

    spec: Spec
    registers: int = 0
    spilled: int = 0
    """Bytes of a thread that lie in memory for want of registers."""
    shared: int = 0
    """Bytes of a block."""
    tensor_columns: int = 0
    """Columns of tensor memory of a block."""
    matrix: tuple[str, ...] = ()
    """Names of `FAMILIES`."""
    error: str = ""

    def occupancy(self) -> Occupancy:
        """Of a multiprocessor."""
        spec = self.spec
        if self.error:
            return Occupancy(0, 0.0)
        return occupancy(spec.arch, spec.settings.warps, self.registers, self.shared, self.tensor_columns)

    def to_json(self) -> dict[str, Any]:
        """One flat mapping."""
        spec, held = self.spec, self.occupancy()
        return {
            "kernel": spec.kernel,
            "key": list(spec.key),
            **spec.settings._asdict(),
            "dtype": spec.dtype,
            "form": spec.form,
            "arch": spec.arch,
            **{name: value for name, value in asdict(self).items() if name != "spec"},
            "matrix": list(self.matrix),
            "blocks": held.blocks,
            "warp_share": held.warps,
            "faults": faults(self),
        }


def faults(row: Row) -> list[str]:
    """What is wrong with a row, in a few words each."""
    if row.error:
        return [row.error]
    limit, expected = ARCHITECTURES[row.spec.arch].block_shared, expected_matrix(row.spec)
    found = []
    if row.spilled:
        found.append(f"{row.spilled} bytes of a thread spilled")
    if row.registers > MOST_REGISTERS:
        found.append(f"{row.registers} registers, {MOST_REGISTERS} are the most")
    if row.shared > limit:
        found.append(f"{row.shared} bytes of shared memory, {limit} are the most")
    elif not row.occupancy().blocks:
        found.append("no block fits a multiprocessor")
    if set(row.matrix) != expected:
        words = [" and ".join(sorted(names)) or "none" for names in (set(row.matrix), expected)]
        found.append(f"matrix instructions: {words[0]}, expected {words[1]}")
    return found


def expected_matrix(spec: Spec) -> set[str]:
    """The families of matrix instructions that a kernel is to use.

    Only attention has products. Exact fp32 ones have no such instructions. Others take the family of their
    architecture where their result has 64 rows or more and a group of four warps works on each of one or two
    halves, and mma.sync elsewhere. Results have as many rows as a tile has queries, and the gradients of key
    and value as many as it has keys.
    """
    if not spec.kernel.startswith("attention") or spec.dtype == "fp32":
        return set()
    rows = {spec.settings.rows}
    if spec.kernel.endswith("backward"):
        rows.add(spec.key[0])
    grouped = spec.settings.warps in (4, 8)
    return {OF_64_ROWS.get(spec.arch, "mma.sync") if n >= 64 and grouped else "mma.sync" for n in rows}
