"""Texts and images that stand in a batch more than once, found by looking.

Code written for transformers repeats an image for each of its questions. `accelerate` turns this on, so that
such a batch is computed as if it had come with `image_index` and `text_index`. Two rows are the same only if
every number is; sums decide which rows are worth comparing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def share_repeats(*parts: Tensor | None) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
    """The distinct rows of a batch, and which of them each row is.

    Args:
        parts: (B, ...) each, or None; rows are the same if they are in every part.

    Returns:
        The parts (I, ...) and the index (B,) int64; the parts as they are and None where no two rows are the
        same, where looking would make a GPU wait, or where a part wants a gradient of its own.
    """
    given = [part for part in parts if part is not None]
    if (
        torch.compiler.is_compiling()
        or len(given[0]) < 2
        or any(p.requires_grad or p.device.type != "cpu" or len(p) != len(given[0]) for p in given)
    ):
        return parts, None
    marks = torch.stack([part.flatten(1).sum(1, dtype=torch.float64) for part in given], 1).tolist()
    alike: dict[tuple[float, ...], list[int]] = {}
    kept: list[int] = []
    kinds: list[int] = []
    for row, mark in enumerate(map(tuple, marks)):
        known = alike.setdefault(mark, [])
        kind = next((kind for kind in known if _same(given, kept[kind], row)), len(kept))
        if kind == len(kept):
            kept.append(row)
            known.append(kind)
        kinds.append(kind)
    if len(kept) == len(kinds):
        return parts, None
    first = torch.tensor(kept)
    return tuple(None if part is None else part[first] for part in parts), torch.tensor(kinds)


def _same(parts: Sequence[Tensor], one: int, other: int) -> bool:
    return all(torch.equal(part[one], part[other]) for part in parts)
