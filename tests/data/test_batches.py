"""The order of an epoch, positions in it, and workers that change nothing."""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

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
        assert [key.first for key in keys] == list(range(0, 103 if not drop_last else 100, 10))
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
    assert [(key.epoch, key.first) for key in keys] == [(3, 7 * number) for number in range(step, 8)]
    assert next(iter(part)).epoch == 4


class Cut(NamedTuple):
    """How an update is divided."""

    ranks: int
    accumulation: int

    def batches(self, rank: int, examples: int, size: int, options: dict[str, Any]) -> EpochBatches:
        cut = {"num_ranks": self.ranks, "accumulation": self.accumulation}
        return EpochBatches(examples, size, rank=rank, **cut, **options)

    def updates(self, examples: int, size: int, options: dict[str, Any], epoch: int, update: int = 0) -> Any:
        """The keys of each update from number `update` on, in the order of their pieces."""
        shares = [self.batches(rank, examples, size, options) for rank in range(self.ranks)]
        for share in shares:
            share.set_position(epoch, update * self.accumulation)
        turns = list(zip(*shares, strict=True))
        groups = [turns[at : at + self.accumulation] for at in range(0, len(turns), self.accumulation)]
        return [[key for turn in group for key in turn] for group in groups]


cuts = st.builds(Cut, st.integers(1, 5), st.integers(1, 3))


@st.composite
def epochs(draw: st.DrawFn, drop_last: bool | None = None) -> tuple[Cut, Cut, int, int, dict[str, Any]]:
    """Two ways to cut an update, examples, the size of an update, and options of `EpochBatches`."""
    cut, other = draw(cuts), draw(cuts)
    options: dict[str, Any] = {"drop_last": draw(st.booleans()) if drop_last is None else drop_last}
    pieces = max(cut.ranks * cut.accumulation, other.ranks * other.accumulation)
    size = draw(st.integers(pieces, 40))
    examples = draw(st.integers(size if options["drop_last"] else pieces, 130))
    options |= {"seed": draw(st.integers(0, 99)), "shuffle": draw(st.booleans())}
    if draw(st.booleans()):
        groups = draw(st.lists(st.integers(0, 9), min_size=examples, max_size=examples))
        options["runs"] = Runs(np.array(groups), draw(st.none() | st.integers(1, 6)))
    return cut, other, examples, size, options


@given(epochs(), st.integers(0, 5))
def test_updates_are_the_order_however_they_are_cut(setting: Any, epoch: int) -> None:
    cut, _, examples, size, options = setting
    pieces = cut.ranks * cut.accumulation
    updates = cut.updates(examples, size, options, epoch)
    share = cut.batches(0, examples, size, options)
    assert len(updates) == share.updates == len(share) / cut.accumulation
    whole = EpochBatches(examples, examples, **options)
    whole.set_position(epoch)
    (order,) = [key.rows for key in whole]
    first = 0
    for update in updates:
        assert len(update) == pieces
        for key in update:
            assert key.first == first
            first += len(key.rows)
            np.testing.assert_array_equal(key.rows, order[key.first : first])
        sizes = [len(key.rows) for key in update]
        assert 1 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert {sum(len(key.rows) for key in update) for update in updates[:-1]} <= {size}
    last = sum(len(key.rows) for key in updates[-1])
    if options["drop_last"]:
        assert last == size
        assert first == examples // size * size
    else:
        assert first == examples
        assert pieces <= last < size + pieces


@given(epochs(drop_last=True), st.integers(0, 3), st.data())
def test_another_number_of_ranks_goes_on_at_the_same_update(
    setting: Any, epoch: int, data: st.DataObject
) -> None:
    before, after, examples, size, options = setting
    through = before.updates(examples, size, options, epoch)
    update = data.draw(st.integers(0, len(through)))
    rest = after.updates(examples, size, options, epoch, update)
    found = [key for keys in (*through[:update], *rest) for key in keys]
    wanted = [key for keys in through for key in keys]
    assert [key.first for keys in rest for key in keys[:1]] == list(
        range(update * size, len(through) * size, size)
    )
    np.testing.assert_array_equal(*(np.concatenate([key.rows for key in keys]) for keys in (found, wanted)))


@given(epochs(), st.integers(0, 3), st.data())
def test_any_position_is_the_rest_of_the_epoch(setting: Any, epoch: int, data: st.DataObject) -> None:
    cut, _, examples, size, options = setting
    share = cut.batches(data.draw(st.integers(0, cut.ranks - 1)), examples, size, options)
    through = [list(share) for _ in range(epoch + 1)][epoch]
    step = data.draw(st.integers(0, len(share)))
    share.set_position(epoch, step)
    rest = list(share)
    assert [(key.epoch, key.first) for key in rest] == [(key.epoch, key.first) for key in through[step:]]
    assert [key.rows.tolist() for key in rest] == [key.rows.tolist() for key in through[step:]]


@given(epochs())
def test_a_batch_knows_where_its_first_run_begins(setting: Any) -> None:
    cut, _, examples, size, options = setting
    runs = options.get("runs")
    (order,) = [key.rows for key in EpochBatches(examples, examples, **options)]
    for update in cut.updates(examples, size, options, 0):
        for key in update:
            if runs is None:
                assert key.run_start is None
                continue
            group = runs.groups[order[key.first]]
            assert (runs.groups[order[key.run_start : key.first]] == group).all()
            assert key.run_start == 0 or runs.groups[order[key.run_start - 1]] != group


def test_impossible_settings() -> None:
    with pytest.raises(InputError, match="39 examples, wanted at least 40, the batch size of one update"):
        EpochBatches(39, 40, seed=0, num_ranks=4)
    with pytest.raises(
        InputError, match="7 examples, wanted at least 8, one for each of 4 ranks x 2 forward"
    ):
        EpochBatches(7, 10, seed=0, num_ranks=4, accumulation=2, drop_last=False)
    with pytest.raises(InputError, match="batch size is 7, wanted at least 8, one for each of 4 ranks x 2"):
        EpochBatches(90, 7, seed=0, num_ranks=4, accumulation=2)
    with pytest.raises(InputError, match="rank 4 of 4, wanted 0 to 3"):
        EpochBatches(90, 10, seed=0, rank=4, num_ranks=4)
    with pytest.raises(InputError, match="accumulation is 0"):
        EpochBatches(90, 10, seed=0, accumulation=0)
    with pytest.raises(InputError, match="runs of 2 examples, wanted 9"):
        EpochBatches(9, 3, seed=0, runs=Runs(np.zeros(2, int)))
    with pytest.raises(InputError, match="9 examples, wanted at least 10"):
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
            inputs, [str(row) for row in key.rows], {"position": (key.epoch, key.first), "rows": key.rows}
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
        assert [batch.extras["position"] for batch in found] == [
            (epoch, 8 * step) for step in range(start, 5)
        ]
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
