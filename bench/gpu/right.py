"""Is a contender in bf16 right? As near to fp32 as Hugging Face's eager model in bf16 is, within a factor.

Scores and losses may be twice as far off, gradients three times, and always a few roundings.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lxmert_fast.bench.contenders import REFERENCE
from lxmert_fast.bench.parity import ParityError, Values
from lxmert_fast.verify import GRADIENTS, SMALL_GRADIENT, difference

DTYPE = torch.bfloat16
FORWARD, BACKWARD, FLOOR = 2.0, 3.0, 4.0


def require_right(who: str, found: Values, wanted: Values, yardstick: Mapping[str, float]) -> float:
    """The largest difference from fp32, `wanted`.

    Args:
        yardstick: the differences of Hugging Face's eager model in bf16.

    Raises:
        ParityError: one is more than the rule allows.
    """
    off = differences(found, wanted)
    if who == REFERENCE:
        limits = dict.fromkeys(off, torch.finfo(torch.float32).max)
    else:
        limits = {
            name: max(
                (BACKWARD if name in GRADIENTS else FORWARD) * yardstick[name],
                FLOOR * torch.finfo(DTYPE).eps,
            )
            for name in off
        }
    for name, value in off.items():
        if not value <= limits[name]:
            raise ParityError(f"{who}: {name} is {value:.1e} off fp32, allowed {limits[name]:.1e}")
    return max(off.values())


def differences(found: Values, wanted: Values) -> dict[str, float]:
    """Of each value, over its largest; of gradients as in `parity.worst_difference`."""
    if found.keys() != wanted.keys():
        raise ParityError(f"{sorted(found)} where the reference has {sorted(wanted)}")
    largest = max((wanted[name].abs().max().item() for name in wanted if name in GRADIENTS), default=0.0)
    floor = SMALL_GRADIENT * largest
    return {
        name: difference(found[name].float(), x, floor if name in GRADIENTS else 0.0)[1]
        for name, x in wanted.items()
    }
