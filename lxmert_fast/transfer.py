"""Many small tensors to a device in one copy.

A plan is made of dozens of index tensors. Made on a GPU, each would be a launch of its own; so plans are made
on the host, and this packs what they hold into one buffer of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

V = TypeVar("V")
#: Every tensor starts at a multiple of this many bytes, as kernels like it.
ALIGNMENT = 16


def pack(value: Any) -> Tensor:
    """The bytes of all distinct CPU tensors in nested dataclasses, tuples and dicts, (bytes,) uint8."""
    pieces = []
    for tensor in tensors_in(value):
        raw = tensor.contiguous().view(-1).view(torch.uint8)
        pieces += [raw, raw.new_zeros(-len(raw) % ALIGNMENT)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8)


def unpack(value: V, buffer: Tensor) -> V:
    """The same structure with its tensors in the buffer of `pack`, wherever that is now."""
    places: dict[int, Tensor] = {}
    start = 0
    for tensor in tensors_in(value):
        size = tensor.numel() * tensor.element_size()
        places[id(tensor)] = buffer[start : start + size].view(tensor.dtype).view(tensor.shape)
        start += size + -size % ALIGNMENT
    return replaced(value, lambda tensor: places[id(tensor)])


def to_device(value: V, device: torch.device) -> V:
    """Nested dataclasses, tuples and dicts with all their tensors on a device, copied at once."""
    buffer = pack(value)
    if device.type == "cuda":
        buffer = buffer.pin_memory()
    return unpack(value, buffer.to(device, non_blocking=True))


def tensors_in(value: Any) -> list[Tensor]:
    """All distinct tensors, in order."""
    found: dict[int, Tensor] = {}
    replaced(value, lambda tensor: found.setdefault(id(tensor), tensor))
    return list(found.values())


def replaced(value: V, change: Callable[[Tensor], Tensor]) -> V:
    """The same structure with each tensor changed; parts that are shared stay shared."""
    done: dict[int, Any] = {}

    def visit(part: Any) -> Any:
        if id(part) in done:
            return done[id(part)]
        new = part
        if isinstance(part, Tensor):
            new = change(part)
        elif isinstance(part, tuple):
            parts = [visit(x) for x in part]
            new = type(part)(*parts) if hasattr(part, "_fields") else tuple(parts)
        elif isinstance(part, dict):
            new = {name: visit(x) for name, x in part.items()}
        elif is_dataclass(part) and not isinstance(part, type):
            new = replace(part, **{f.name: visit(getattr(part, f.name)) for f in fields(part)})
        done[id(part)] = new
        return new

    return visit(value)
