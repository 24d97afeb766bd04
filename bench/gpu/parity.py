"""Are operators as exact as eager PyTorch? In fp32, fp16 and bf16, results and every gradient.

Both are compared with the same formula in fp64 on the same rounded inputs. An operator's largest error, over
the largest value, may be twice that of eager PyTorch in its dtype, of gradients three times, and always a few
roundings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import lxmert_fast.kernels.bias_gelu.op
import lxmert_fast.kernels.dropout_add_layer_norm.op
import lxmert_fast.kernels.rows
import lxmert_fast.kernels.self_attention.op
import lxmert_fast.kernels.text_embedding.op
import lxmert_fast.kernels.visual_embedding.op  # noqa: F401 (the operators exist once these are imported)
from lxmert_fast.bench.gpu.cases import BASE, SMALL, Case, Size, cases
from lxmert_fast.bench.gpu.device import Device
from lxmert_fast.bench.gpu.formulas import FORMULAS, Given, own_masks
from lxmert_fast.bench.gpu.items import Item
from lxmert_fast.kernels.dispatch import interprets

DTYPES = torch.float16, torch.bfloat16, torch.float32
FORWARD, BACKWARD, FLOOR = 2.0, 3.0, 4.0
"""Times eager's error, of results and of gradients; and units of rounding that are always allowed."""
RATE = 0.1


def small_items(device: Device) -> Iterator[Item]:
    """Odd shapes, with and without dropout."""
    for size in SMALL[:2] if device.dry else SMALL:
        for p in (0.0, RATE):
            yield from _items(device, size, p)


def base_items(device: Device) -> Iterator[Item]:
    """The base model's shapes; a dry run has seen enough."""
    for size in () if device.dry else BASE:
        yield from _items(device, size, RATE)


def compare(case: Case, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """A row: the worst result and the worst gradient, over what is allowed; "fault" where it is more."""
    given = case.cast(dtype, device)
    exact = exactly(given)
    formula = partial(FORMULAS[case.operator], drop=own_masks(given))
    with torch.no_grad():
        like = formula(exact)
    cotangent = torch.randn(like.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cotangent = cotangent.to(device, dtype)
    wanted = _values(formula(exact), exact, cotangent.double())
    eager = _values(formula(given), given, cotangent)
    found = _values(_operator(case.operator)(**given), given, cotangent)
    worst: dict[str, Any] = {"result": 0.0, "gradient": 0.0, "fault": None}
    for name, value in wanted.items():
        kind, factor = ("result", FORWARD) if name == "result" else ("gradient", BACKWARD)
        error, of_eager = error_of(found[name], value), error_of(eager[name], value)
        allowed = max(factor * of_eager, FLOOR * torch.finfo(dtype).eps)
        worst[kind] = max(worst[kind], error / allowed)
        if not error <= allowed and worst["fault"] is None:
            worst["fault"] = f"{name} is {error:.1e} off, allowed {allowed:.1e} (eager {of_eager:.1e})"
    return worst


def exactly(given: Given) -> Given:
    """The same numbers in fp64, and fp64's own way of closing a key."""
    exact = {name: widened(value) for name, value in given.items()}
    if exact.get("bias") is not None and "table" in given:
        exact["bias"] = (given["bias"] < 0).double() * torch.finfo(torch.float64).min
    return exact


def _items(device: Device, size: Size, p: float) -> Iterator[Item]:
    for case in cases(size, p):
        for dtype in DTYPES:
            if interprets() and dtype is torch.bfloat16 and "attention" in case.operator:
                continue  # Triton's interpreter multiplies bf16 matrices as if their bits were integers
            short = str(dtype).removeprefix("torch.")
            title = f"{case.operator} {case.name}, {size.name}, dropout {p:g}, {short}"
            yield Item(f"parity/{title}", "operator", 1.0, partial(_row, case, dtype, device))


def _row(case: Case, dtype: torch.dtype, device: Device) -> dict[str, Any]:
    found = compare(case, dtype, device.torch)
    return {"operator": case.operator, "failed": found["fault"] is not None, **found}


def _operator(name: str) -> Any:
    return getattr(torch.ops.lxmert_fast, name)


def _values(output: Any, given: Given, cotangent: Tensor) -> dict[str, Tensor]:
    """The result, and the gradient of every argument that has one."""
    y = output if isinstance(output, Tensor) else output[0]
    inputs = {k: v for k, v in given.items() if isinstance(v, Tensor) and v.requires_grad}
    grads = torch.autograd.grad(y, list(inputs.values()), cotangent, allow_unused=True)
    named = {f"gradient of {name}": g for name, g in zip(inputs, grads, strict=True) if g is not None}
    return {"result": y.detach()} | named


def widened(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


def error_of(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value; infinite where anything is no number."""
    if not found.numel():
        return 0.0
    error = ((found.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
    return error if math.isfinite(error) else math.inf
