"""How an update is cut into passes, and settings that do not go together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxmert_fast.data.batches import EpochBatches
from lxmert_fast.errors import InputError
from lxmert_fast.train.launched import _check_together, cut
from lxmert_fast.train.settings import OptimisationSettings


@given(pairs=st.integers(1, 40), ranks=st.integers(1, 12), most=st.none() | st.integers(1, 12))
def test_every_pass_has_a_pair_and_none_too_many(pairs: int, ranks: int, most: int | None) -> None:
    """Or it is refused, where there is no such cut; no fewer passes would do."""
    settings = OptimisationSettings(batch_size=pairs, micro_batch_size=most)
    fewest = -(-pairs // (ranks * (most or pairs)))
    if fewest * ranks > pairs:
        with pytest.raises(InputError, match=rf"optimisation\.batch_size is {pairs}, fewer than"):
            cut(settings, ranks)
        return
    passes, micro_batch = cut(settings, ranks)
    assert passes == fewest
    sizes = []
    for rank in range(ranks):
        batches = EpochBatches(pairs, pairs, seed=0, rank=rank, num_ranks=ranks, accumulation=passes)
        sizes += [len(key.rows) for key in batches]
    assert sum(sizes) == pairs
    assert min(sizes) >= 1
    assert max(sizes) == micro_batch <= (most or pairs)


def test_what_cannot_be_cut_names_the_settings() -> None:
    with pytest.raises(InputError) as caught:
        cut(OptimisationSettings(batch_size=5, micro_batch_size=1), 4)
    assert str(caught.value) == (
        "optimisation.batch_size is 5, fewer than the 8 forward passes of 4 ranks with "
        "optimisation.micro_batch_size 1: wanted a pair for each"
    )
    with pytest.raises(InputError) as caught:
        cut(OptimisationSettings(batch_size=3), 4)
    assert str(caught.value) == "optimisation.batch_size is 3, fewer than the 4 ranks: wanted a pair for each"


FP16 = r"optimisation\.precision: fp16 wants the deepspeed launcher and optimisation\.zero\.stage from 1 on"


@pytest.mark.parametrize(
    ("settings", "launched", "problem"),
    [
        ({"precision": "fp16", "zero": {"stage": 1}}, False, FP16),
        ({"precision": "fp16", "zero": {"stage": 0}}, True, FP16),
        ({"precision": "fp16", "zero": {"stage": 1}}, True, None),
        ({"compile": True, "zero": {"stage": 3}}, True, r"optimisation\.compile: not with zero\.stage 3"),
        ({"compile": True, "zero": {"stage": 3}}, False, None),
        ({"compile": True, "zero": {"stage": 2}}, True, None),
        ({"precision": "bf16"}, False, None),
    ],
)
def test_settings_that_do_not_go_together(
    settings: dict[str, Any], launched: bool, problem: str | None
) -> None:
    found = OptimisationSettings.model_validate(settings)
    if problem is None:
        _check_together(found, launched=launched)
    else:
        with pytest.raises(InputError, match=problem):
            _check_together(found, launched=launched)
