"""What a run is made of: items that each leave a row, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lxmert_fast.bench.parity import ParityError
from lxmert_fast.bench.race import Unavailable


@dataclass(frozen=True)
class Item:
    """One thing to do, once."""

    name: str
    """Its row's id."""
    kind: str
    """Items of a kind take about as long as one another."""
    expected: float
    """Seconds, until one has been run."""
    run: Callable[[], dict[str, Any]]
    race: str | None = None
    """The title of the race that it is an entry of."""


class BrokenDevice(Exception):
    """A kernel failed in a way that no later call of this process recovers from."""


def carry_out(item: Item) -> dict[str, Any]:
    """An item's row; where it cannot be run or is wrong, one that says so and has no time.

    Raises:
        BrokenDevice: with the row as its argument.
    """
    try:
        return item.run()
    except torch.OutOfMemoryError:
        return fault("out of memory", failed=False)
    except Unavailable as reason:
        return fault(str(reason), failed=False)
    except ParityError as error:
        return fault(str(error), failed=True)
    except Exception as error:
        row = fault(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", failed=True)
        if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
            raise BrokenDevice(row) from error
        return row


def fault(why: str, *, failed: bool) -> dict[str, Any]:
    """A row without a time; `failed` where that is an error and not what this machine lacks."""
    return {"fault": why, "failed": failed}
