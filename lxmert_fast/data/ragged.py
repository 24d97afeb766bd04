"""Rows of different lengths in one flat array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """N rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`.

    One flat array instead of N objects is what lets nine million sentences stay in memory and
    a whole batch of them be gathered without a loop.
    """

    values: np.ndarray  # (total,)
    offsets: np.ndarray  # (N + 1,) int64

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[Any]], dtype: np.typing.DTypeLike) -> Ragged:
        """Pack lists; `rows` is walked once."""
        values: list[Any] = []
        ends = [0]
        for row in rows:
            values.extend(row)
            ends.append(len(values))
        return cls(np.asarray(values, dtype=dtype), np.asarray(ends, dtype=np.int64))

    @classmethod
    def concatenate(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, in order; at least one part."""
        starts = np.cumsum([0] + [len(part.values) for part in parts[:-1]])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=True)]
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate([np.zeros(1, np.int64), *offsets]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def first_equal(self) -> np.ndarray:
        """(N,) int64: for each row, the first one that has the same values."""
        content = self.values.tobytes()
        ends = (self.offsets * self.values.itemsize).tolist()
        first: dict[bytes, int] = {}
        rows = (first.setdefault(content[a:b], row) for row, (a, b) in enumerate(pairwise(ends)))
        return np.fromiter(rows, np.int64, len(self))

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the values of `rows` lie in the flat array, row after row, and the new offsets.

        Several arrays that share their offsets (answer ids and their scores) are gathered with
        one call.
        """
        lengths = self.lengths(rows)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1]), offsets

    def take(self, rows: np.ndarray) -> Ragged:
        """The named rows, in that order."""
        positions, offsets = self.positions(rows)
        return Ragged(self.values[positions], offsets)

    def padded(self, rows: np.ndarray, width: int, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The named rows, cut or filled up, (n, width) int64, and which entries are real, (n, width) bool."""
        real = np.arange(width) < self.lengths(rows)[:, None]
        table = np.full((len(rows), width), fill, dtype=np.int64)
        where = self.offsets[rows][:, None] + np.arange(width)
        table[real] = self.values[where[real]]
        return table, real
