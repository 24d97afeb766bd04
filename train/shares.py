"""Losses as means over the global batch.

Every forward pass has the mean loss of its own batch, L_p = (1 / n_p) sum_i l_i, and the engine averages over
the P passes of an update, all ranks together. The mean over the global batch is

    (1 / N) sum_p n_p L_p = (1 / P) sum_p s_p L_p        s_p = P n_p / N,  N = sum_p n_p

so each pass weighs its loss with its share s_p. n counts what the loss is a mean over: masked words, answers,
objects, pairs. A pass without any has share 0 and reduces zeros; where no pass has any, all are 0.

The original's `nn.DataParallel` takes (1 / P) sum_p L_p instead (reference 2.6).
"""

from __future__ import annotations

from collections.abc import Sequence

from .ranks import Ranks

Counts = dict[str, float]
"""By loss, what it is a mean over, of one batch."""


def shares(counts: Sequence[Counts], divisors: Sequence[Counts], ranks: Ranks) -> tuple[list[Counts], Counts]:
    """The shares of this rank's passes of an update, and the counts of the whole update.

    Args:
        counts: n of each pass of this rank; the same keys everywhere.
        divisors: what the model divided by instead, where it counts padding too: then s_p has this above
            the line, so that only what is there is a part of the mean.
        ranks: all of them call.
    """
    names = sorted(counts[0])
    sums = ranks.total([sum(found[name] for found in counts) for name in names])
    totals = dict(zip(names, sums, strict=True))
    passes = len(counts) * ranks.size
    return [
        {name: passes * found[name] / totals[name] if totals[name] else 0.0 for name in names}
        for found in divisors
    ], totals
