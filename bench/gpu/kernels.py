"""Every operator at the shapes of a training step: time, bytes a second, and what others take.

Bytes are the least that a call must move (`step_calls.py`), and their rate is held against a copy's, measured
in the same run. A call whose result is wrong, or whose operator is wrong anywhere, has no time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lxmert_fast.bench.gpu.cases import SMALL, cases
from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.formulas import FORMULAS, Given, own_masks
from lxmert_fast.bench.gpu.items import Item
from lxmert_fast.bench.gpu.parity import FLOOR, FORWARD, RATE, compare, error_of, exactly
from lxmert_fast.bench.gpu.results import Results
from lxmert_fast.bench.gpu.rivals import rivals
from lxmert_fast.bench.parity import ParityError
from lxmert_fast.bench.race import Unavailable
from lxmert_fast.bench.step_calls import Call, Place, step_calls
from lxmert_fast.bench.workloads import config_for, workload
from lxmert_fast.kernels.dispatch import has_triton

DTYPE = torch.bfloat16
ROUNDS = 30
WORKLOADS = "vqa", "captions"
#: A matrix product's rows, inner and outer width, and a copy's bytes; of a GPU and of a dry run.
PRODUCT, COPIED = {False: 8192, True: 64}, {False: 2**30, True: 2**16}


def rate_items(device: Device) -> Iterator[Item]:
    """What the machine can do at best: a copy and a matrix product."""
    yield Item("rates/machine", "rates", 2.0, partial(_rates, device))


def kernel_items(device: Device, results: Results) -> Iterator[Item]:
    """Calls of a training step of each workload, in their order."""
    for name in WORKLOADS[:1] if device.dry else WORKLOADS:
        sized = workload(name).sized(6 if device.dry else None)
        place = Place(device.torch, DTYPE, whole=True)
        torch.manual_seed(0)
        given: Given = {}
        operator = ""
        for call in step_calls(sized, config_for(sized, tiny=device.dry), place):
            if call.kernel.endswith("_forward"):
                operator, given = arguments(call)
            title = f"kernels/{name}/{call.what}/{call.kernel}"
            yield Item(title, "kernel", 2.0, partial(_row, name, call, operator, given, device, results))


def arguments(call: Call) -> tuple[str, Given]:
    """The operator that a call calls, and its arguments by name."""
    function = call.run.func  # type: ignore[attr-defined]
    overload = getattr(function, "_opoverload", None) or function.default
    schema = overload._schema
    names = [argument.name for argument in schema.arguments]
    return schema.name.split("::")[1], dict(zip(names, call.run.args, strict=True))  # type: ignore[attr-defined]


def _row(
    of: str, call: Call, operator: str, given: Given, device: Device, results: Results
) -> dict[str, Any]:
    if not device.dry and not has_triton():
        raise Unavailable("Triton is not installed")
    backward = call.kernel.endswith("_backward")
    if call.kernel == "sum_readers":
        operator, given = "repeat_rows", _repeated(call)
    _require_right(operator, device, results)
    if call.kernel.endswith("_forward"):
        _require_right_result(call, operator, given)
    timing = device.time_kernel(call.run, ROUNDS).to_json()
    rate = call.least / timing["median"]
    copied = next((row["copy_bytes_a_second"] for row in results.of("rates")), None)
    directions = 2 if "cross" in call.what or "both streams" in call.what else 1
    backwards = backward or operator == "repeat_rows"
    return {
        "workload": of,
        "what": call.what,
        "kernel": call.kernel,
        "times": call.times,
        "least": call.least,
        "bytes_a_second": rate,
        "share_of_copy": rate / copied if copied else None,
        "fault": None,
        "failed": False,
        **timing,
        "beside": {
            rival.name: device.time_kernel(rival.timed(backwards), ROUNDS).to_json()
            for rival in rivals(operator, given, directions)
        },
    }


def _require_right(operator: str, device: Device, results: Results) -> None:
    """No row of the operator in this run is wrong; one is made where there is none."""
    rows = [row for row in results.of("parity") if row.get("operator") == operator]
    if not rows:
        some = [case for case in cases(SMALL[0], RATE) if case.operator == operator]
        rows = [compare(case, DTYPE, device.torch) for case in some]
    for row in rows:
        if row["fault"]:
            raise ParityError(f"{operator}: {row['fault']}")


def _require_right_result(call: Call, operator: str, given: Given) -> None:
    """Of the very call that is timed."""
    output: Any = call.run()
    y = output if isinstance(output, Tensor) else output[0]
    formula, drop = FORMULAS[operator], own_masks(given)
    with torch.no_grad():
        wanted = formula(exactly(given), drop)
        allowed = max(FORWARD * error_of(formula(given, drop), wanted), FLOOR * torch.finfo(y.dtype).eps)
    error = error_of(y, wanted)
    if not error <= allowed:
        raise ParityError(f"{call.what}, {call.kernel}: {error:.1e} off, allowed {allowed:.1e}")


def _repeated(call: Call) -> Given:
    """Arguments of the lookup whose gradient is timed."""
    x, starts, readers = call.run.args  # type: ignore[attr-defined]
    source = torch.empty_like(readers)
    of_rows = torch.arange(len(starts) - 1, device=x.device)
    source[readers] = of_rows.repeat_interleave(starts.diff())
    return {"x": x[: len(starts) - 1], "source": source, "p": 0.0}


def _rates(device: Device) -> dict[str, Any]:
    size, count = PRODUCT[device.dry], COPIED[device.dry]
    a, b = (torch.randn(size, size, dtype=DTYPE, device=device.torch) for _ in range(2))
    source = torch.ones(count, dtype=torch.uint8, device=device.torch)
    target = torch.empty_like(source)
    product = device.time_kernel(lambda: a @ b, ROUNDS).to_json()
    copy = device.time_kernel(lambda: target.copy_(source), ROUNDS).to_json()
    return {
        "copy_bytes_a_second": 2 * count / copy["median"],
        "matrix_rate": 2 * size**3 / product["median"],
        "fault": None,
        "failed": False,
    }
