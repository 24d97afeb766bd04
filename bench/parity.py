"""Is what a contender computed what the reference computed? Asked of the very values that were timed."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lxmert_fast.verify import GRADIENTS, SMALL_GRADIENT, difference

Values = Mapping[str, Tensor]
"""Results by name: "scores" of inference; "loss" and the gradients of `verify.GRADIENTS` of a step."""


class ParityError(AssertionError):
    """A contender's values are not the reference's: no speed is reported for it."""


def worst_difference(found: Values, wanted: Values) -> tuple[str, float]:
    """Name and size of the largest difference, relative to the largest value of its tensor.

    A gradient is held against a thousandth of the step's largest gradient if that is more: some are zero by
    construction, and what is left there is rounding. Infinite where anything is missing or not finite.
    """
    if found.keys() != wanted.keys():
        return f"{sorted(found)} where the reference has {sorted(wanted)}", float("inf")
    gradients = [wanted[name].abs().max().item() for name in wanted if name in GRADIENTS]
    floor = SMALL_GRADIENT * max(gradients, default=0.0)
    worst = ("", -1.0)
    for name, tensor in wanted.items():
        _, relative = difference(found[name], tensor, floor if name in GRADIENTS else 0.0)
        if not relative <= worst[1]:
            worst = (name, relative)
    return worst


def require_parity(who: str, found: Values, wanted: Values, tolerance: float) -> float:
    """The largest relative difference. Raises `ParityError` where it is above `tolerance` or no number."""
    where, relative = worst_difference(found, wanted)
    if not relative <= tolerance:
        raise ParityError(
            f"{who}: {where} is {relative:.1e} of its largest value off, allowed {tolerance:.0e}"
        )
    return relative


def require_finite(who: str, found: Values) -> None:
    """All that can be asked of values with dropout in them. Raises `ParityError`."""
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise ParityError(f"{who}: {name} is not finite")


def same_top_answers(found: Tensor, wanted: Tensor) -> float:
    """Share of rows of (B, A) whose largest score is at the same answer."""
    return (found.argmax(-1) == wanted.argmax(-1)).float().mean().item()
