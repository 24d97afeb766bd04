"""Damage met in the middle of an epoch: one line with file, row and image, from a worker as well."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from region_files import random_image, write_images
from torch.utils.data import Dataset

from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches, make_loader
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.errors import InputError

COUNTS = (3, 1, 5, 5, 2, 4, 1, 2)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    images = [random_image(seed, boxes) for seed, boxes in enumerate(COUNTS)]
    return write_images(tmp_path / "regions.h5", images)


class Reader(Dataset):
    def __init__(self, store: RegionStore) -> None:
        self.store = store

    def __getitem__(self, key: BatchKey) -> Batch:
        features = torch.from_numpy(self.store.read(key.rows).features)
        return Batch({"features": features}, [str(row) for row in key.rows], {})


def batches(store: RegionStore, workers: int) -> Iterator[Batch]:
    order = EpochBatches(len(store), 2, seed=0, shuffle=False)
    return iter(make_loader(Reader(store), order, num_workers=workers))


def complaint(found: Iterator[Batch]) -> str:
    """What reading on is refused with. (`pytest.raises` would keep the loader until the garbage is collected,
    and then PyTorch waits five seconds for its workers.)"""
    try:
        list(found)
    except InputError as error:
        return str(error)
    pytest.fail("all could be read")


def place_of(path: Path, name: str, box: int) -> int:
    with h5py.File(path) as opened:
        data = opened[name]
        return int(data.id.get_offset()) + box * data.dtype.itemsize * int(np.prod(data.shape[1:]))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_file_that_shrinks(file: Path, workers: int) -> None:
    """Row 4's features are cut off, with all that lies behind them, the ids included."""
    store = RegionStore(file)
    assert store.image_ids[3] == "image-0003"
    place = place_of(file, "features", sum(COUNTS[:3]) + 1)
    os.truncate(file, place)
    message = complaint(batches(store, workers))
    # of the first two images the features are whole, and nothing else is left
    assert message.startswith(f"{file}: truncated: found 0 of 48 bytes at ")
    assert message.endswith("(the file shrank while it was open) in row 1, image 'image-0000'")
    with pytest.raises(
        InputError, match=r"truncated: found 32 of 160 bytes at .* in row 4, image 'image-0003'"
    ):
        store.features_at(np.array([0, 3]), np.array([0, 1]))
    assert store.features_at(np.array([0, 3]), np.array([0, 0])).shape == (2, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_ids_that_went_with_the_rest(file: Path, workers: int) -> None:
    store = RegionStore(file)
    assert len(store) == len(COUNTS)
    os.truncate(file, place_of(file, "features", 2))
    assert complaint(batches(store, workers)).endswith(" in row 1, image unknown")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_block_that_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Of the run of rows 5 and 6, the disk refuses the second."""
    read, bad = os.preadv, place_of(file, "features", sum(COUNTS[:5]))

    def broken(fd: int, buffers: list[memoryview], place: int) -> int:
        if place <= bad < place + sum(buffer.nbytes for buffer in buffers):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, buffers, place)

    monkeypatch.setattr(os, "preadv", broken)
    found = batches(RegionStore(file), workers)
    assert [batch.example_ids for batch in islice(found, 2)] == [["0", "1"], ["2", "3"]]
    assert complaint(found) == (
        f"{file}: cannot read 128 bytes at {bad:,}: [Errno 5] Input/output error in row 6, image 'image-0005'"
    )


@pytest.mark.parametrize("column", ["object_ids", "attribute_ids"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_that_does_not_exist(file: Path, tmp_path: Path, workers: int, column: str) -> None:
    """Damage that the loss would trip over, in the second file: the checksum tells that it is damage."""
    other = shutil.copy(file, tmp_path / "other.h5")
    images = [random_image(seed + 100, 3) for seed in range(4)]
    first = write_images(tmp_path / "first.h5", images)
    with h5py.File(other, "r+") as opened:
        opened[column][sum(COUNTS[:2]) + 4] = -3 if column == "object_ids" else 10**6
    message = complaint(batches(RegionStore(first, other), workers))
    assert message.startswith(f"{other}: row 3, image 'image-0002': damaged bytes: found checksum ")
    assert message.endswith("; `lxmert-fast features check` names all such images")


def test_silent_damage_is_left_to_the_check(file: Path) -> None:
    """A changed feature is read as it is; only the checksum knows."""
    place = place_of(file, "features", 4)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    store = RegionStore(file)
    assert len(list(batches(store, 0))) == 4
    (fault,) = filter(None, store.faults())
    assert fault.startswith(f"{file}: row 3, image 'image-0002': damaged bytes: ")
