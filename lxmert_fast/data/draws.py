"""Random numbers by place: those of an example follow from the seed, the epoch and its place in the order.

For each `Purpose` an epoch has one long table of uniform numbers, a row a place. Nobody holds it: Philox, a
generator that counts, starts anywhere in its stream, so a batch computes the rows it needs. However the
examples of an update are cut over ranks, forward passes and workers, each meets the same numbers.
"""

from __future__ import annotations

import enum

import numpy as np

# numbers that a step of Philox's counter gives
_A_STEP = 4


class Purpose(enum.IntEnum):
    """Tables that know nothing of each other: more objects an image change nothing about the words."""

    PAIRS = 0
    WORDS = 1
    OBJECTS = 2


def uniforms(seed: int, epoch: int, purpose: Purpose, first: int, shape: tuple[int, ...]) -> np.ndarray:
    """Rows `first`, `first` + 1, ... of a table of float64 in [0, 1), of 53 random bits.

    Args:
        seed, epoch: at least 0.
        purpose: which table.
        first: a place in the epoch's order, from 0.
        shape: (B, ...): rows, then what stands in one. Tables of rows of different sizes differ.
    """
    before = first * int(np.prod(shape[1:]))
    steps, skipped = divmod(before, _A_STEP)
    philox = np.random.Philox(np.random.SeedSequence([seed, epoch, purpose])).advance(steps)
    return np.random.Generator(philox).random(skipped + int(np.prod(shape)))[skipped:].reshape(shape)


def below(uniform: np.ndarray, limits: np.ndarray | int) -> np.ndarray:
    """Integers from 0 to `limits` - 1, each as likely, up to a 2^53rd for each of them; int64."""
    return (uniform * limits).astype(np.int64)
