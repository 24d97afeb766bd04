"""Every Triton kernel compiled for GPUs that are not there, and what the compiler made of it.

The compiler needs no GPU; its result tells registers, spills, shared memory, how many blocks fit a
multiprocessor, and whether the matrix units are used. Speed it does not tell. Results are kept on the disk
by kernel source, specification and versions, so that a second run compiles only what has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_file
from lxmert_fast.kernels.dispatch import has_triton, interprets

from .aot_specs import Spec
from .occupancy import ARCHITECTURES, Occupancy, occupancy

PROCESSES = 2
#: Families of matrix instructions, as they stand in PTX.
FAMILIES = {"mma.sync": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
OF_64_ROWS = {90: "wgmma", 100: "tcgen05"}
MOST_REGISTERS = 255
#: Changes with what a result holds.
FORMAT = 1


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


def compile_all(
    specs: Iterable[Spec],
    cache: Path | None = None,
    processes: int = PROCESSES,
    done: Callable[[int], object] = lambda n: None,
) -> list[Row]:
    """Compile, or remember; rows come in the order of the specifications.

    Args:
        cache: the folder of earlier results; `default_cache()` if absent.
        done: is told how many more are ready.

    Raises:
        InputError: there is no compiler.
    """
    check_compiler()
    specs, cache = list(specs), cache or default_cache()
    rows: dict[Spec, Row] = {}
    for spec in specs:
        if (row := _remembered(spec, cache)) is not None:
            rows[spec] = row
    done(len(rows))
    missing = [spec for spec in specs if spec not in rows]
    if missing:
        # forked workers would share PyTorch's threads, spawned ones would each look at the caller's script
        with ProcessPoolExecutor(processes, get_context("forkserver")) as pool:
            for future in as_completed([pool.submit(compile_one, spec) for spec in missing]):
                row = future.result()
                rows[row.spec] = row
                _remember(row, cache)
                done(1)
    return [rows[spec] for spec in specs]


def check_compiler() -> None:
    """See that Triton is there.

    Raises:
        InputError: it is not, or its interpreter stands in for the compiler.
    """
    if not has_triton():
        raise InputError(
            "Triton is not installed, and compiles the kernels: pip install 'lxmert-fast[triton]'"
        )
    if interprets():
        raise InputError("TRITON_INTERPRET=1 interprets kernels, which are to be compiled: unset it")


def default_cache() -> Path:
    """A folder of our own among Triton's results."""
    from triton import knobs

    return Path(knobs.cache.dir) / "lxmert-fast-aot"


def compile_one(spec: Spec) -> Row:
    """Compile here and now."""
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(spec.function(), spec.signature(), spec.constants(), spec.attributes())
    options = {
        "num_warps": spec.settings.warps,
        "num_stages": spec.settings.stages,
        "enable_fp_fusion": True,
    }
    # every stage of every kernel would be a gigabyte to keep; debug information costs a fifth of the time
    with tempfile.TemporaryDirectory() as scratch, knobs.cache.scope(), knobs.compilation.scope():
        knobs.cache.dir = scratch
        knobs.compilation.disable_line_info = True
        try:
            compiled = triton.compile(source, GPUTarget("cuda", spec.arch, 32), options)
        except Exception as error:  # whatever a compiler may raise is a row's fault, and the others go on
            return Row(spec, error=_in_short(error))
        registers, spilled = _resources(compiled.asm["cubin"])
        return Row(
            spec,
            registers,
            spilled,
            compiled.metadata.shared,
            getattr(compiled.metadata, "tmem_size", 0),
            tuple(name for name, word in FAMILIES.items() if word in compiled.asm["ptx"]),
        )


def _in_short(error: Exception) -> str:
    """One line: of what Triton says in many, the first and the last tell most."""
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    return " ".join(lines[:1] + lines[1:][-1:])[:200]


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and the bytes that it keeps in memory."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(n) for name, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", said)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def _file(spec: Spec, cache: Path) -> Path:
    import triton

    told = [FORMAT, triton.__version__, spec.function().cache_key, repr(spec)]
    told += [spec.signature(), spec.constants(), repr(spec.attributes())]
    return cache / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()}.json"


def _remembered(spec: Spec, cache: Path) -> Row | None:
    try:
        found = json.loads(_file(spec, cache).read_text(encoding="utf-8"))
        return Row(spec, **found | {"matrix": tuple(found["matrix"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(row: Row, cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    content = {name: value for name, value in asdict(row).items() if name != "spec"}
    if not row.error:
        replace_file(_file(row.spec, cache), lambda beside: beside.write_text(json.dumps(content)))
