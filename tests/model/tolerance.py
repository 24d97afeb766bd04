"""How close is equal: the rules all parity tests go by.

fp32 and fp64: the largest difference over the tensor's largest value. A gradient a hundred times smaller
than the model's largest is held against a hundredth of that instead: some are zero by construction (the
bias of a key), and what is left there is rounding.
bf16: the error against fp32 may be at most twice what the reference's own eager code makes in bf16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

FP32 = 1e-5
FP64 = 1e-10
SMALL_GRADIENT = 1e-2
BF16_FACTOR = 2.0


def assert_close(
    found: Tensor, wanted: Tensor, *, tolerance: float = FP32, floor: float = 0.0, what: str = ""
) -> None:
    """`found` equals `wanted` to `tolerance` of its largest value, or of `floor` if that is more."""
    assert found.shape == wanted.shape, f"{what}: {tuple(found.shape)} against {tuple(wanted.shape)}"
    found, wanted = found.detach(), wanted.detach()
    scale, worst = max(largest(wanted), floor), largest(found - wanted)
    assert math.isfinite(scale), f"{what}: the reference is not finite"
    assert worst <= tolerance * scale, f"{what}: {worst:.2e} apart, largest value {scale:.2e}"


def largest(x: Tensor) -> float:
    """Largest magnitude in a tensor, 0 of an empty one, NaN where there is one."""
    if x.numel() == 0:
        return 0.0
    low, high = x.aminmax()  # several times faster than abs().max(), and passes NaN on
    return max(-low.item(), high.item())


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Gradient of every parameter, None where there is none."""
    return {name: p.grad for name, p in model.named_parameters()}


def assert_gradients_close(
    found: Mapping[str, Tensor | None], wanted: Mapping[str, Tensor | None], *, tolerance: float = FP32
) -> None:
    """The same parameters have a gradient, and the same one."""
    assert found.keys() == wanted.keys()
    absent = {name for name, gradient in wanted.items() if gradient is None}
    assert {name for name, gradient in found.items() if gradient is None} == absent
    floor = SMALL_GRADIENT * max(largest(g) for g in wanted.values() if g is not None)
    for name, gradient in wanted.items():
        if gradient is not None:
            assert_close(found[name], gradient, tolerance=tolerance, floor=floor, what=f"gradient of {name}")


def assert_no_worse_than_eager(found: Tensor, eager: Tensor, exact: Tensor, what: str, scale: float) -> None:
    """Root mean square error of `found` at most twice that of `eager`; `scale` bounds what rounding means."""
    error, allowed = ((x.float() - exact).square().mean().sqrt().item() for x in (found, eager))
    least = scale * torch.finfo(torch.bfloat16).eps / 8
    assert error <= BF16_FACTOR * max(allowed, least), f"{what}: error {error:.2e}, eager's {allowed:.2e}"
