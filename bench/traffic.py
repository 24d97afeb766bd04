"""Bytes that the Triton kernels of a training step load and store, counted in Triton's interpreter.

Every load and store of a program is seen with its mask; the lanes that are open count, each with the size of
its element. Nothing is said about caches: a parameter that many programs load is counted for each, though a
GPU finds it in its L2 cache. Kernels add nothing atomically, so loads and stores are all there is.

Triton decides to interpret when it is imported. So `measure` starts this file in a process of its own, which
prints a line of JSON a call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lxmert_fast.errors import InputError
from lxmert_fast.kernels.dispatch import has_triton, interprets
from lxmert_fast.kernels.launch import listening

if TYPE_CHECKING:
    from lxmert_fast.bench.step_calls import Call


@dataclass(frozen=True)
class Traffic:
    """Of one call of an operator."""

    workload: str
    what: str
    """What the step calls it for."""
    kernel: str
    """The kernel; that which sums its parts is counted with it."""
    shared: bool
    """Whether pairs read the rows of a text or an image that they share."""
    times: int
    """Such calls in a step."""
    bytes: int
    """Loaded and stored by one call."""
    least: int
    """Every input of a call once, every output once."""


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the bytes that kernels load and store in this block, by the name of the kernel.

    Raises:
        InputError: Triton does not interpret in this process.
    """
    if not interprets():
        raise InputError("counting traffic needs Triton and TRITON_INTERPRET=1 in the environment")
    from triton.runtime.interpreter import interpreter_builder

    counted: Counter[str] = Counter()
    running = [""]
    load, store = interpreter_builder.create_masked_load, interpreter_builder.create_masked_store

    def note(pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        counted[running[0]] += int(mask.data.sum()) * size

    def counted_load(pointers: Any, mask: Any, *arguments: Any, **named: Any) -> Any:
        note(pointers, mask)
        return load(pointers, mask, *arguments, **named)

    def counted_store(pointers: Any, value: Any, mask: Any, *arguments: Any, **named: Any) -> Any:
        note(pointers, mask)
        return store(pointers, value, mask, *arguments, **named)

    # plain loads and stores call these two with every lane open
    interpreter_builder.create_masked_load = counted_load
    interpreter_builder.create_masked_store = counted_store
    try:
        # a launch is reported before the first of its programs runs
        with listening(lambda name, grid: running.__setitem__(0, name)):
            yield counted
    finally:
        del interpreter_builder.create_masked_load, interpreter_builder.create_masked_store


def measure(workloads: list[str], *, pairs: int | None = None, tiny: bool = False) -> list[Traffic]:
    """Count the calls of a training step of each workload, in a process of its own.

    Raises:
        InputError: no such workload, no Triton.
    """
    from lxmert_fast.bench.workloads import workload

    for name in workloads:
        workload(name).sized(pairs)
    if not has_triton():
        raise InputError("counting traffic needs Triton: pip install lxmert-fast[triton]")
    wanted = json.dumps({"workloads": workloads, "pairs": pairs, "tiny": tiny})
    done = subprocess.run(
        [sys.executable, "-m", "lxmert_fast.bench.traffic", wanted],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [Traffic(**json.loads(line)) for line in done.stdout.splitlines()]


def count_calls(calls: Iterable[Call], workload: str) -> Iterator[Traffic]:
    """Count each call."""
    for call in calls:
        with counting() as slice_of:
            call.run()
        with counting() as whole:
            call.then()
        moved = slice_of.total() * call.slices + whole.total()
        yield Traffic(workload, call.what, call.kernel, call.shared, call.times, moved, call.least)


def _main(workloads: list[str], pairs: int | None, tiny: bool) -> None:
    from lxmert_fast.bench.step_calls import step_calls
    from lxmert_fast.bench.workloads import config_for, workload

    for name in workloads:
        sized = workload(name).sized(pairs)
        for row in count_calls(step_calls(sized, config_for(sized, tiny=tiny)), name):
            print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    _main(**json.loads(sys.argv[1]))
