"""The random bits of the kernels, in plain PyTorch: Philox 4x32 with 7 rounds (Salmon et al. 2011).

    keep[i] = signed(philox(key = seed + site, counter = i)[0]) >= p * 2 ** 32 - 2 ** 31

A counter-based generator needs no state: whoever knows the seed and the place of an element draws the same
bits again, so that no mask is kept for backward. `seed` is drawn once a forward pass, `site` tells apart the
places in the model that drop. Seven rounds pass BigCrush and are what dropout needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 7
_LOW = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEYS = 0x9E3779B9, 0xBB67AE85


class Seed(NamedTuple):
    """Where the dropout masks of a forward pass come from. Never mutated: parts of a model `split` it."""

    value: Tensor
    """(1,) int64, on the device of the computation."""
    site: int = 0

    def split(self, i: int) -> Seed:
        """The seed of the i-th part, i < 63."""
        return Seed(self.value, self.site * 64 + i + 1)


def part(seed: Seed | None, i: int) -> Seed | None:
    """The seed of the i-th part, if there is one."""
    return None if seed is None else seed.split(i)


def draw_seed(device: torch.device) -> Seed:
    """A seed from PyTorch's generator of the device: its state governs every mask of a forward pass."""
    return Seed(torch.randint(2**62, (1,), dtype=torch.int64, device=device))


def keep_mask(seed: Seed, first: int, shape: tuple[int, ...], p: float) -> Tensor:
    """(shape) bool, False with probability p; its elements have the counters from `first` on."""
    count = torch.Size(shape).numel()
    counters = torch.arange(first, first + count, device=seed.value.device).view(shape)
    return keep_at(seed, counters, p)


def keep_at(seed: Seed, counters: Tensor, p: float) -> Tensor:
    """Bool of the shape of `counters` (int64, their lowest 64 bits), False with probability p."""
    return random_bits(seed.value + seed.site, counters) >= threshold(p)


def threshold(p: float) -> int:
    """The least signed 32-bit value that keeps an element."""
    return _dropped(p) - 2**31


def _dropped(p: float) -> int:
    return min(round(p * 2**32), 2**32 - 1)


def keep_scale(p: float) -> float:
    """What kept elements are multiplied with; 0 where none is kept."""
    return 0.0 if p >= 1.0 else 2**32 / (2**32 - _dropped(p))


def random_bits(key: Tensor, counters: Tensor) -> Tensor:
    """The first word of Philox as a signed 32-bit value, in int64.

    Args:
        key: (1,) int64.
        counters: int64.
    """
    k0, k1 = key & _LOW, (key >> 32) & _LOW
    c0, c1 = counters & _LOW, (counters >> 32) & _LOW
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high2, low2 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEYS[0]) & _LOW, (k1 + _KEYS[1]) & _LOW
    return c0 - ((c0 >> 31) << 32)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product, which int64 alone would overflow."""
    upper, lower = a * (b >> 16), a * (b & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (lower & 0xFFFF)
