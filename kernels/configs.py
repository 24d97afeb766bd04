"""Launch settings: how many rows a tile has, and how many warps work on it.

Plain tables, one a kernel, by what is fixed when a model is built (the width of a row, the width of a head)
and the tile that its data needs, a power of two. The number of rows and of sequences is in no key.
An architecture may have entries of its own, in `BY_ARCHITECTURE`; `tune.py` writes such entries to a file,
which `LXMERT_FAST_CONFIGS` names. No entry here was measured, since no machine of the project has a GPU: they
are tiles that `lxmert-fast bench aot` compiles without a spill for every architecture that it knows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "LXMERT_FAST_CONFIGS"


class WrongVariable(ValueError):
    """An environment variable of this library with a value that it cannot use; a command prints it alone."""


class Settings(NamedTuple):
    """Of one launch."""

    rows: int
    """Rows of a tile."""
    warps: int
    stages: int = 1
    """Loads in flight, of kernels with a loop."""
    columns: int = 0
    """Of a head, that attention takes at a time and reads again for every tile; 0: all, which it holds."""


Key = tuple[int, ...]
Table = dict[Key, Settings]

#: Kernels that hold whole rows, by the width of a row rounded up to a power of two. Of eight rows a tile the
#: parameters are an eighth of the traffic.
_ROWS: Table = {
    (64,): Settings(16, 4),
    (128,): Settings(8, 4),
    (256,): Settings(8, 4),
    (512,): Settings(8, 8),
    (1024,): Settings(8, 16),
    (2048,): Settings(4, 16),
    (4096,): Settings(2, 16),
}
#: Their backward passes, which hold three sums for the parameters as well.
_ROWS_BACKWARD: Table = {
    (64,): Settings(8, 4),
    (128,): Settings(4, 4),
    (256,): Settings(4, 4),
    (512,): Settings(2, 4),
    (1024,): Settings(2, 8),
    (2048,): Settings(1, 8),
    (4096,): Settings(1, 16),
}
#: These hold ten parameters of a row, or seven and nine sums: wider rows do not fit the registers.
_VISUAL: Table = {
    (64,): Settings(8, 4),
    (128,): Settings(4, 4),
    (256,): Settings(4, 4),
    (512,): Settings(2, 4),
    (1024,): Settings(2, 8),
    (2048,): Settings(1, 8),
}
_VISUAL_BACKWARD: Table = {
    (64,): Settings(8, 4),
    (128,): Settings(4, 4),
    (256,): Settings(2, 4),
    (512,): Settings(1, 4),
    (1024,): Settings(1, 8),
    (2048,): Settings(1, 16),
}


def _attention(entry: Callable[[int, int], Settings], size: int) -> Table:
    """By the keys of a tile and the width of a head, in powers of two, and by the bytes of an element."""
    return {(keys, width, size): entry(keys, width) for keys in (16, 32, 64, 128) for width in (32, 64, 128)}


# mma.sync takes 16 rows at a time: more rows would only cost registers
def _forward(keys: int, width: int) -> Settings:
    if keys == 128:
        return Settings(32, 8, columns=16 if width == 32 else 0)
    return Settings(64, 4) if keys == 64 else Settings(16 if keys == width == 32 else 32, 4)


def _backward(keys: int, width: int) -> Settings:
    if keys == 128:
        return Settings(32, 8, columns=min(32, width // 2))
    return Settings(32, 8, columns=64) if keys * width > 64 * 64 else Settings(32, 4)


# wgmma and tcgen05 take 64 rows at a time
def _forward_64(keys: int, width: int) -> Settings:
    return Settings(64, 8, columns=min(32, width // 2)) if keys == 128 else _forward(keys, width)


def _backward_64(keys: int, width: int) -> Settings:
    return Settings(64, 8, columns=min(32, width // 2)) if keys == 128 else _backward(keys, width)


# an fp32 product is unrolled with its operands in registers: few columns at a time
def _forward_exact(keys: int, width: int) -> Settings:
    return Settings(16, 4, columns=16)


def _backward_exact(keys: int, width: int) -> Settings:
    if keys == 16:
        return Settings(16, 2, columns=16)
    if keys == width == 32:
        return Settings(32, 4, columns=16)
    if keys == 32 and width == 128:
        return Settings(16, 8, columns=16)
    return Settings(16, 8, columns=min(32, width // 2))


DEFAULT: dict[str, Table] = {
    "attention_forward": _attention(_forward, 2) | _attention(_forward_exact, 4),
    "attention_backward": _attention(_backward, 2) | _attention(_backward_exact, 4),
    "norm_forward": _ROWS,
    "norm_backward": _ROWS_BACKWARD,
    "text_forward": _ROWS,
    "text_backward": _ROWS_BACKWARD,
    "visual_forward": _VISUAL,
    "visual_backward": _VISUAL_BACKWARD,
    # element by element; the width is that of a tile
    "gelu_forward": {(256,): Settings(16, 4)},
    "gelu_backward": {(256,): Settings(8, 4)},
    "sum_partials": {(128,): Settings(16, 4)},
    "sum_readers": {(1024,): Settings(1, 4)},
}
_OF_64: dict[str, Table] = {
    "attention_forward": _attention(_forward_64, 2),
    "attention_backward": _attention(_backward_64, 2),
}
BY_ARCHITECTURE: dict[int, dict[str, Table]] = {90: _OF_64, 100: _OF_64}
_installed: dict[int, dict[str, Table]] = {}


def power_of_two(n: int, least: int = 16) -> int:
    """The least power of two that is not below n, nor below `least`."""
    return max(least, 1 << (n - 1).bit_length())


def attention_key(keys: int, width: int, size: int) -> Key:
    """The key of attention over at most so many keys, by heads of this width and elements of `size` bytes."""
    return power_of_two(keys), power_of_two(width, 32), min(size, 4)


def settings(kernel: str, architecture: int, *key: int) -> Settings:
    """The settings of a kernel: an installed entry, a tuned one, one of the architecture, or the default.

    Raises:
        ValueError: a tile that no table has.
    """
    for table in (
        _installed.get(architecture, {}).get(kernel, {}),
        _tuned().get(architecture, {}).get(kernel, {}),
        BY_ARCHITECTURE.get(architecture, {}).get(kernel, {}),
        DEFAULT[kernel],
    ):
        if key in table:
            return table[key]
    wanted = ", ".join(map(str, DEFAULT[kernel]))
    raise ValueError(f"{kernel}: no launch settings for {key}, wanted one of {wanted}")


def install(table: dict[int, dict[str, Table]]) -> None:
    """Use these settings before all others from now on, in this process; {} takes them away again.

    What `torch.compile` or a CUDA graph has recorded keeps the settings that it was recorded with.
    """
    _installed.clear()
    _installed.update(table)


def read_table(path: Path) -> dict[int, dict[str, Table]]:
    """A table that `write_table` wrote.

    Raises:
        ValueError: a file that is no such table.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(architecture): {
                kernel: {tuple(map(int, key.split("x"))): Settings(*values) for key, values in table.items()}
                for kernel, table in kernels.items()
            }
            for architecture, kernels in raw.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a table of launch settings ({error})") from error


def write_table(path: Path, table: dict[int, dict[str, Table]]) -> None:
    """Write settings by architecture, kernel and key."""
    raw = {
        str(architecture): {
            kernel: {"x".join(map(str, key)): list(values) for key, values in entries.items()}
            for kernel, entries in kernels.items()
        }
        for architecture, kernels in table.items()
    }
    path.write_text(json.dumps(raw, indent=1), encoding="utf-8")


@lru_cache
def _tuned() -> dict[int, dict[str, Table]]:
    path = os.environ.get(VARIABLE)
    try:
        return read_table(Path(path)) if path else {}
    except (OSError, ValueError) as error:
        raise WrongVariable(f"{VARIABLE}: {error}") from error


def check_environment() -> None:
    """Read the table that `LXMERT_FAST_CONFIGS` names now rather than at the first launch.

    Raises:
        WrongVariable: it can't be read.
    """
    _tuned()
