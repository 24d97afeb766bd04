"""The order of an epoch, positions in it, and workers that change nothing."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches, make_loader, on_arrival
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


def test_impossible_settings() -> None:
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
