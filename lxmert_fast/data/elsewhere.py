"""An example of another image, each as likely, from one uniform number."""

from __future__ import annotations

import numpy as np

from lxmert_fast.data.draws import below
from lxmert_fast.data.sharing import by_group


class Elsewhere:
    """N examples sorted by group, so that those of other groups are two stretches: before it and after it.

    Trying until an example is of another group would do as well, but by an unknown number of draws.
    Holds 4 bytes an example.

    Args:
        groups: (N,) integers from 0 to 2^32 - 1, at least two different ones; fewer than 2^31 of them.
    """

    def __init__(self, groups: np.ndarray) -> None:
        self.groups = groups
        self._sorted = by_group(groups).astype(np.int32)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(groups))])

    def draw(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """For each of `rows` (n,) an example of another group, (n,) int64, by `uniform` (n,) in [0, 1)."""
        groups = self.groups[rows]
        starts, ends = self._starts[groups], self._starts[groups + 1]
        place = below(uniform, len(self.groups) - (ends - starts))
        place += np.where(place >= starts, ends - starts, 0)
        return self._sorted[place].astype(np.int64)
