"""Pairs that have an image or a sentence in common: standing together in an epoch, held once in a batch.

A model computes an image once for all its sentences, and a sentence once for all its images, where
`image_index` and `text_index` say who shares what (`LxmertModel.forward`). An epoch costs less the more of
them meet in a batch; what it is must not change: every example once, each as likely in one place as in
another.
"""

from __future__ import annotations

import numpy as np

from lxmert_fast.data.ragged import Ragged
from lxmert_fast.errors import InputError


class Runs:
    """N examples cut into runs of one group each; the order of an epoch moves runs, not examples.

    Args:
        groups: (N,) integers from 0 to 2^32 - 1, what each example has in common with others: the row of its
            image, or the number of its sentence.
        limit: examples in a run at most; None for whole groups. A larger group is cut anew at random in
            every epoch.

    Raises:
        InputError: groups that are not such integers, a limit below 1.
    """

    def __init__(self, groups: np.ndarray, limit: int | None = None) -> None:
        groups = np.asarray(groups)
        if groups.ndim != 1 or not np.issubdtype(groups.dtype, np.integer):
            raise InputError(f"groups are {groups.dtype} of shape {groups.shape}, wanted integers of (N,)")
        if groups.size and not 0 <= groups.min() <= groups.max() < 1 << 32:
            raise InputError(f"groups are {groups.min()} to {groups.max()}, wanted 0 to 2^32 - 1")
        if limit is not None and limit < 1:
            raise InputError(f"runs of at most {limit} examples, wanted at least 1")
        self.groups = groups
        _, sizes = np.unique(groups, return_counts=True)
        longest = int(sizes.max(initial=1)) if limit is None else limit
        cuts = -(-sizes // longest)
        lengths = np.full(cuts.sum(), longest)
        lengths[np.cumsum(cuts) - 1] = sizes - (cuts - 1) * longest
        self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    def __len__(self) -> int:
        """Examples, not runs."""
        return len(self.groups)

    def in_order(self) -> np.ndarray:
        """(N,) int64 example numbers, group after group and each in file order."""
        return by_group(self.groups)

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) int64 example numbers, run after run.

        Each example falls on each of the N places with probability 1/N exactly, whatever the sizes of the
        groups; so on each batch, and among what does not fill a batch, as likely as any other. Shuffled runs
        of different sizes would not do that (of a run of one and a run of three, the one is first or last);
        turning the order by a random number of places does, and cuts at most one run in two.

        A batch's gradient is as unbiased as that of independent examples. Its variance is larger, because
        the examples of a run resemble each other.
        """
        members = rng.permutation(len(self))
        members = members[by_group(self.groups[members])]
        runs = Ragged(members, self._offsets)
        order = runs.take(rng.permutation(len(runs))).values
        return np.roll(order, rng.integers(len(self)))


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The distinct ones of (B,) values, (I,), and which of them each is, (B,) int64.

    Where all differ, the values as they are, and None.
    """
    found, which = np.unique(values, return_inverse=True)
    return (values, None) if len(found) == len(values) else (found, which.astype(np.int64))


def stretches(groups: np.ndarray, first: int, start: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Where stretches of equal neighbours begin, (I,), and of which stretch each is, (B,) int64.

    Args:
        groups: (B,), of the places `first` to `first` + B - 1 of an order.
        start: the place where the stretch of the first one begins, at most `first`.

    Where no neighbours are equal, None for the second.
    """
    changes = groups[1:] != groups[:-1]
    starts = np.concatenate([[start], first + 1 + np.flatnonzero(changes)])
    if changes.all():
        return starts, None
    return starts, np.concatenate([np.zeros(1, np.int64), np.cumsum(changes)])


def by_group(groups: np.ndarray) -> np.ndarray:
    """(N,) int64 places of `groups`, integers from 0 to 2^32 - 1, sorted by group and then by place."""
    # both in one integer: sorting numbers takes a fifteenth of the time of a stable argsort
    keys = groups.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(len(groups), dtype=np.uint64)
    keys.sort()
    keys &= np.uint64(0xFFFFFFFF)
    return keys.view(np.int64)
