"""Ten minutes, divided among parts: what one does not use, the later ones have."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Budget:
    """Says whether there is time for one more item.

    Args:
        minutes: of the whole run.
        shares: weights of the parts, in their order.
        now: a clock in seconds.
    """

    def __init__(
        self, minutes: float, shares: Mapping[str, float], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now, self._shares = now, dict(shares)
        self._end = self._until = now() + 60 * minutes
        self._taken: dict[str, float] = {}

    def begin(self, part: str) -> None:
        """From now on items are of this part, which has its share of what is left."""
        weights = list(self._shares.items())
        later = dict(weights[[name for name, _ in weights].index(part) :])
        share = self._shares[part] / sum(later.values())
        self._until = self._now() + (self._end - self._now()) * share

    def allows(self, kind: str, expected: float) -> bool:
        """Whether an item ends in time if it takes as long as expected, or as the last of its kind."""
        return self._now() + max(expected, self._taken.get(kind, 0.0)) <= self._until

    def note(self, kind: str, seconds: float) -> None:
        """An item of this kind took so long."""
        self._taken[kind] = seconds
