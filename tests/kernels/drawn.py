"""The reference's formulas with the masks that the kernels draw, by `philox.py` in place of the generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from unittest.mock import patch

import torch
from torch import Tensor

from lxmert_fast.kernels.philox import Seed, keep_at, keep_mask, keep_scale

#: More queries or keys than this no meeting has: the stride of an attention's counters.
PLACES = 128


def new_seed(value: int = 2**61 + 12345, site: int = 7) -> Seed:
    """A seed whose two words both matter."""
    return Seed(torch.tensor([value]), site)


@contextmanager
def drawing(module: ModuleType, *masks: Tensor) -> Iterator[None]:
    """`module.dropout` takes these masks, one a call."""
    left = iter(masks)
    with patch.object(module, "dropout", lambda x, p: x * next(left) * keep_scale(p)):
        yield
    assert next(left, None) is None, "a mask was not used"


def of_rows(seed: Seed, shape: tuple[int, ...], p: float) -> Tensor:
    """The mask of rows (N, H)."""
    return keep_mask(seed, 0, shape, p)


def of_meetings(seed: Seed, first: int, shape: tuple[int, int, int, int], p: float) -> Tensor:
    """The mask of probabilities (B, heads, T, U) of the meetings from `first` on."""
    meetings, heads, queries, keys = (torch.arange(n) for n in shape)
    head = ((first + meetings)[:, None] * shape[1] + heads)[:, :, None, None]
    return keep_at(seed, (head * PLACES + queries[:, None]) * PLACES + keys, p)
