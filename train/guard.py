"""Updates that would do harm: a loss or gradient that is not finite, or a loss far above the others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from .settings import GuardSettings

WINDOW = 100
"""Losses whose median a spike is measured by."""
ENOUGH = 20
"""Losses before which nothing is called a spike."""


class Guard:
    """Judges each update; all ranks judge the same numbers, so they agree.

    Args:
        settings: what is bad, and what may be skipped or rolled back.
        losses: of the updates before, from a checkpoint.
        rolled_back: how often this run has gone back already.
    """

    def __init__(
        self, settings: GuardSettings, losses: Iterable[float] = (), in_a_row: int = 0, rolled_back: int = 0
    ) -> None:
        self.settings = settings
        self.losses = deque(losses, maxlen=WINDOW)
        self.in_a_row = in_a_row
        self.rolled_back = rolled_back

    def judge(self, loss: float) -> str | None:
        """What is wrong with an update's loss, None if nothing is."""
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if self.settings.spike is not None and len(self.losses) >= ENOUGH:
            usual = median(self.losses)
            if loss > self.settings.spike * usual:
                return f"loss is {loss:.4g}, over {self.settings.spike:g} times the usual {usual:.4g}"
        return None

    def good(self, loss: float) -> None:
        """An update was applied."""
        self.losses.append(loss)
        self.in_a_row = 0

    def may_skip(self) -> bool:
        """Whether the bad update at hand may be left out; it is counted."""
        self.in_a_row += 1
        return self.in_a_row <= self.settings.skip

    def may_roll_back(self) -> bool:
        """Whether the run may return to its last checkpoint; it is counted."""
        self.rolled_back += 1
        self.in_a_row = 0
        return self.rolled_back <= self.settings.roll_backs
