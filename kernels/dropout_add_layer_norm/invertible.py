"""Whether a LayerNorm's output gives its normalised input back: x^ = (y - shift) / weight.

y carries a rounding error of its own size. Divided by a weight that is small beside the shift, it would cost
digits; then the sum before the norm is kept for backward instead. Reading the parameters of a GPU waits for
it, and they move slowly: an answer holds for `STEPS` changes of the weight, or steps of an optimizer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..changes import optimizer_steps, version

#: The least weight beside its shift: two digits of fp32; for half types, no more than a rounding of the sum.
LEAST_WEIGHT = {torch.float16: 1.0, torch.bfloat16: 1.0}
LEAST_WEIGHT_FP32 = 0.25
STEPS = 128

_answers: WeakIdKeyDictionary = WeakIdKeyDictionary()


class _Known(NamedTuple):
    answer: bool
    place: tuple[torch.dtype, int | None]
    counts: tuple[int, int]

    def age(self, counts: tuple[int, int]) -> int:
        return max(now - then for now, then in zip(counts, self.counts, strict=True))


def forget() -> None:
    """Ask every weight again: they have been loaded."""
    _answers.clear()


def invertible(weight: Tensor, shift: Tensor, dtype: torch.dtype) -> bool:
    """The answer for outputs in `dtype`, at most `STEPS` changes of the weight old.

    False while a graph is traced, which could not ask again; True of parameters without numbers, which stand
    for new ones.
    """
    if torch.compiler.is_compiling():
        return False
    if weight.is_meta:
        return True
    counts = version(weight), optimizer_steps()
    # ZeRO-3 gathers a weight to another address for each call
    place = dtype, None if hasattr(weight, "ds_id") else weight.data_ptr()
    known = _answers.get(weight)
    if known is not None and known.place == place and known.age(counts) < STEPS:
        return known.answer
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        return known is not None and known.answer
    least = LEAST_WEIGHT.get(dtype, LEAST_WEIGHT_FP32)
    answer = bool((weight.detach().abs() > least * shift.detach().abs()).all())
    _answers[weight] = _Known(answer, place, counts)
    return answer
