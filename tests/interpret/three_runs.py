"""When a kernel is right: the one rule of tolerance that all tests here go by.

An operation runs three times on the same rounded numbers: as a kernel and as eager PyTorch (`reference.py`)
in the dtype at hand, and as eager PyTorch in fp64, which counts as exact. Of the output, and of the gradient
of every tensor that goes in,

    error(kernel) <= factor * error(eager) + 4 ulp of the largest exact value

where error is the largest difference from the exact values, and factor is 2 for the output and 3 for
gradients. The kernel's tensors stand between NaNs, so that a lane read from beside them shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from guards import Stand, guarded
from operations import Case, Operation
from torch import Tensor

FORWARD, BACKWARD = 2.0, 3.0
ULPS = 4


def assert_as_good_as_eager(
    case: Case,
    dtype: torch.dtype,
    *,
    wide: tuple[str, ...] = (),
    stand: Stand = "contiguous",
) -> None:
    """The rule above.

    Args:
        wide: names of those that are fp32 whatever the dtype.
        stand: how the kernel's tensors stand in memory.
    """
    kernel, formula, tensors = case
    rounded = {name: x.to(torch.float32 if name in wide else dtype) for name, x in tensors.items()}
    found, grad = _run(kernel, {name: guarded(x, stand) for name, x in rounded.items()}, None, stand)
    eager, _ = _run(formula, rounded, grad)
    exact, _ = _run(formula, {name: x.double() for name, x in rounded.items()}, grad)
    for name, truth in exact.items():
        output = name == "output"
        assert found[name].shape == truth.shape, name
        assert found[name].dtype == eager[name].dtype, f"{name}: {found[name].dtype}"
        assert not found[name].isnan().any(), f"{name}: NaN, at {_places(found[name].isnan())}"
        error, of_eager = _largest(found[name] - truth), _largest(eager[name] - truth)
        floor = ULPS * torch.finfo(found[name].dtype).eps * _largest(truth)
        allowed = (FORWARD if output else BACKWARD) * of_eager + floor
        assert error <= allowed, (
            f"{name}: error {error:.2e}, eager's {of_eager:.2e}, floor {floor:.2e}, "
            f"at {_places((found[name] - truth).abs() > allowed)}"
        )


def _run(
    operation: Operation, tensors: Mapping[str, Tensor], grad: Tensor | None, stand: Stand = "contiguous"
) -> tuple[dict[str, Tensor], Tensor]:
    """The output and all gradients; the gradient that the output got."""
    leaves: dict[str, Any] = {name: x.detach().requires_grad_() for name, x in tensors.items()}
    output = operation(**leaves)
    if grad is None:
        generator = torch.Generator().manual_seed(output.numel())
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        output.backward(guarded(grad, stand))
    else:
        output.backward(grad.to(output.dtype))
    gradients = {f"gradient of {name}": x.grad for name, x in leaves.items()}
    absent = [name for name, gradient in gradients.items() if gradient is None]
    assert not absent, absent
    return {"output": output.detach(), **gradients}, grad


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def _places(wrong: Tensor) -> list[list[int]]:
    return wrong.nonzero()[:8].tolist()
