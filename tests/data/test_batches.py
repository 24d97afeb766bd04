"""The order of an epoch, positions in it, and workers that change nothing."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches, make_loader, on_arrival
from lxmert_fast.data.sharing import Runs
from lxmert_fast.errors import InputError


def rows_of(batches: EpochBatches) -> list[list[int]]:
    return [key.rows.tolist() for key in batches]


def test_an_epoch_holds_every_example_once() -> None:
    for drop_last, last in ((True, 10), (False, 3)):
        batches = EpochBatches(103, 10, seed=1, drop_last=drop_last)
        keys = list(batches)
        assert len(keys) == len(batches) == 10 + (not drop_last)
        assert [key.step for key in keys] == list(range(len(keys)))
        assert len(keys[-1].rows) == last
        rows = np.concatenate([key.rows for key in keys])
        assert rows.dtype == np.int64
        assert len(np.unique(rows)) == len(rows) == (100 if drop_last else 103)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    first = EpochBatches(60, 7, seed=5)
    epochs = [rows_of(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    second = EpochBatches(60, 7, seed=5)
    for epoch in (2, 0, 1):
        second.set_position(epoch)
        assert rows_of(second) == epochs[epoch]
    assert rows_of(EpochBatches(60, 7, seed=6)) != epochs[0]
    assert rows_of(EpochBatches(60, 60, seed=5, shuffle=False)) == [list(range(60))]


def test_without_runs_the_order_is_the_one_it_always_was() -> None:
    batches = EpochBatches(50, 10, seed=5)
    batches.set_position(3)
    wanted = np.arange(50)
    np.random.default_rng([5, 3, 0, 1]).shuffle(wanted)
    np.testing.assert_array_equal(np.concatenate(rows_of(batches)), wanted)


def test_the_order_is_not_the_stream_of_a_batch() -> None:
    rows = np.concatenate(rows_of(EpochBatches(50, 10, seed=5)))
    for step in range(2):
        same = np.arange(50)
        np.random.default_rng([5, 0, step]).shuffle(same)
        assert rows.tolist() != same.tolist()


@pytest.mark.parametrize("step", [0, 1, 5, 8])
def test_a_position_goes_on_where_it_says(step: int) -> None:
    whole = EpochBatches(60, 7, seed=5)
    whole.set_position(3)
    part = EpochBatches(60, 7, seed=5)
    part.set_position(3, step)
    keys = list(part)
    assert [key.rows.tolist() for key in keys] == rows_of(whole)[step:]
    assert [(key.epoch, key.step) for key in keys] == [(3, number) for number in range(step, 8)]
    assert next(iter(part)).epoch == 4


@st.composite
def sharded(draw: st.DrawFn) -> tuple[list[EpochBatches], EpochBatches]:
    """The batches of every rank, and those that one process would see."""
    ranks, size, drop_last = draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.booleans())
    examples = draw(st.integers(ranks * (size if drop_last else 1), 90))
    options: dict[str, Any] = {"seed": draw(st.integers(0, 99)), "shuffle": draw(st.booleans())}
    if draw(st.booleans()):
        groups = draw(st.lists(st.integers(0, 9), min_size=examples, max_size=examples))
        options["runs"] = Runs(np.array(groups), draw(st.none() | st.integers(1, 6)))
    options["drop_last"] = drop_last
    shares = [EpochBatches(examples, size, rank=rank, num_ranks=ranks, **options) for rank in range(ranks)]
    return shares, EpochBatches(examples, size, **options)


@given(sharded(), st.integers(0, 5))
def test_ranks_share_an_epoch(batches: tuple[list[EpochBatches], EpochBatches], epoch: int) -> None:
    shares, alone = batches
    for part in (*shares, alone):
        part.set_position(epoch)
    keys = [list(share) for share in shares]
    assert {len(of_rank) for of_rank in keys} == {len(share) for share in shares} == {len(shares[0])}
    in_turn = [key for step in zip(*keys, strict=True) for key in step]
    rows = np.concatenate([key.rows for key in in_turn])
    order = np.concatenate([key.rows for key in alone])
    assert [key.step for key in in_turn] == list(range(len(in_turn)))
    np.testing.assert_array_equal(rows, order[: len(rows)])
    whole = shares[0].batch_size * len(shares)
    if alone.drop_last:
        assert len(rows) == alone.num_examples // whole * whole
        assert [len(key.rows) for key in in_turn] == [alone.batch_size] * len(in_turn)
    else:
        assert len(rows) == alone.num_examples
        last = [len(key.rows) for key in in_turn[-len(shares) :]]
        assert max(last) - min(last) <= 1
        assert 1 <= min(last) <= max(last) <= alone.batch_size + (alone.num_examples % whole < len(shares))
        assert all(len(key.rows) == alone.batch_size for key in in_turn[: -len(shares)])


@given(sharded(), st.integers(0, 3), st.data())
def test_any_position_is_the_rest_of_the_epoch(
    batches: tuple[list[EpochBatches], EpochBatches], epoch: int, data: st.DataObject
) -> None:
    share = data.draw(st.sampled_from(batches[0]))
    through = [list(share) for _ in range(epoch + 1)][epoch]
    step = data.draw(st.integers(0, len(share)))
    share.set_position(epoch, step)
    rest = list(share)
    assert [(key.epoch, key.step) for key in rest] == [(key.epoch, key.step) for key in through[step:]]
    assert [key.rows.tolist() for key in rest] == [key.rows.tolist() for key in through[step:]]


def test_impossible_settings() -> None:
    with pytest.raises(InputError, match="39 examples, wanted at least one batch of 10 for each of 4 ranks"):
        EpochBatches(39, 10, seed=0, num_ranks=4)
    with pytest.raises(InputError, match="3 examples, wanted at least one batch of 1 for each of 4 ranks"):
        EpochBatches(3, 10, seed=0, num_ranks=4, drop_last=False)
    with pytest.raises(InputError, match="rank 4 of 4, wanted 0 to 3"):
        EpochBatches(90, 10, seed=0, rank=4, num_ranks=4)
    with pytest.raises(InputError, match="runs of 2 examples, wanted 9"):
        EpochBatches(9, 3, seed=0, runs=Runs(np.zeros(2, int)))
    with pytest.raises(InputError, match="9 examples, wanted at least one batch of 10"):
        EpochBatches(9, 10, seed=0)
    with pytest.raises(InputError, match="0 examples"):
        EpochBatches(0, 10, seed=0, drop_last=False)
    with pytest.raises(InputError, match="batch size is 0"):
        EpochBatches(9, 0, seed=0)
    batches = EpochBatches(30, 10, seed=0)
    for position in ((0, 4), (0, -1), (-1, 0)):
        with pytest.raises(InputError, match="wanted a batch of 0 to 3"):
            batches.set_position(*position)


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


class Numbers(Dataset):
    def __getitem__(self, key: BatchKey) -> Batch:
        rows = torch.from_numpy(key.rows)
        inputs: dict[str, Any] = {
            "rows": rows,
            "doubled": on_arrival(double, rows),
            "pair": {"x": (rows, rows)},
        }
        return Batch(
            inputs, [str(row) for row in key.rows], {"position": (key.epoch, key.step), "rows": key.rows}
        )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_keeps_order_types_and_position(workers: int) -> None:
    batches = EpochBatches(40, 8, seed=2)
    loader = make_loader(Numbers(), batches, num_workers=workers)
    assert len(loader) == 5
    wanted = EpochBatches(40, 8, seed=2)
    for epoch, start in ((0, 0), (1, 0), (7, 3)):
        if epoch == 7:
            batches.set_position(epoch, start)
        wanted.set_position(epoch, start)
        found = list(loader)
        assert [batch.extras["position"] for batch in found] == [(epoch, step) for step in range(start, 5)]
        for batch, key in zip(found, wanted, strict=True):
            assert isinstance(batch, Batch)
            assert isinstance(batch.extras["rows"], np.ndarray)
            assert batch.example_ids == [str(row) for row in key.rows]
            assert batch.inputs["rows"].tolist() == key.rows.tolist()
            assert isinstance(batch.inputs["pair"]["x"], tuple)
            torch.testing.assert_close(batch.inputs["doubled"], batch.inputs["rows"] * 2, rtol=0, atol=0)


def test_leaving_an_epoch_early() -> None:
    batches = EpochBatches(40, 8, seed=2)
    loader = make_loader(Numbers(), batches, num_workers=1)
    first = [batch.inputs["rows"].tolist() for batch in islice(loader, 2)]
    batches.set_position(0, 2)
    rest = [batch.inputs["rows"].tolist() for batch in loader]
    whole = EpochBatches(40, 8, seed=2)
    assert first + rest == rows_of(whole)
