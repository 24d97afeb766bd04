"""Image ids in as many bytes as they have, and the row of one by bisection.

A dict of strings takes 135 bytes an image, and every worker that looks at one of them copies its page: Python
counts references inside the strings. Here it is twice the longest id and 4 bytes, in pages that stay shared,
and a look-up takes a microsecond more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np


class ImageIds(Sequence[str]):
    """I ids in row order, from `stored` (I,), fixed-length UTF-8."""

    def __init__(self, stored: np.ndarray) -> None:
        self._stored = stored

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._stored, kind="stable").astype(np.int32)

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self._stored[self._order]

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]
        return self._stored[row].decode()

    def __iter__(self) -> Iterator[str]:
        return (image_id.decode() for image_id in self._stored)

    def find(self, image_id: object) -> int | None:
        """The row of an id, the first of several; None where there is none."""
        if not isinstance(image_id, str):
            return None
        wanted = image_id.encode(errors="surrogatepass")
        # numpy would widen all ids to the length of a longer one, and takes no account of zeros at the end
        if len(wanted) > self._stored.dtype.itemsize or wanted.endswith(b"\0"):
            return None
        place = int(self._sorted.searchsorted(wanted))
        if place == len(self) or self._sorted[place] != wanted:
            return None
        return int(self._order[place])

    def repeated(self) -> tuple[int, int] | None:
        """Two rows of the same id, in order; None where all differ."""
        same = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if not len(same):
            return None
        return int(self._order[same[0]]), int(self._order[same[0] + 1])
