"""Triton kernels compiled for GPUs that are not there: the compiler needs none.

Results are kept on the disk by kernel source, specification and Triton's version, so that a second run
compiles only what has changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from lxmert_fast.errors import InputError
from lxmert_fast.files import replace_text
from lxmert_fast.kernels.dispatch import has_triton, interprets

from .aot_rows import FAMILIES, Row
from .aot_specs import Spec

PROCESSES = 2
#: Changes with what a result holds.
FORMAT = 1


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
    # of a gigabyte of stages and debug information only a few numbers are asked for
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
        replace_text(_file(row.spec, cache), json.dumps(content))
