"""A region file under many readers at once, and a large one in a small process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from region_files import random_image, sparse_file, write_images

from lxmert_fast.data.regions import RegionStore

READERS = 32


def digest(store: RegionStore, seed: int) -> str:
    """Of all that a store holds, read in many small batches of a random order."""
    found = hashlib.sha256()
    for rows in np.random.default_rng(seed).permutation(len(store)).reshape(-1, 5):
        regions = store.read(np.sort(rows))
        found.update(rows.tobytes())
        for part in vars(regions).values():
            found.update(part.tobytes())
    return found.hexdigest()


def read_together(store: RegionStore, barrier: Barrier, results: Any) -> None:
    barrier.wait()
    results.put(digest(store, 3))


@pytest.mark.parametrize("opened", ["before forking", "by each reader"])
def test_many_processes_read_the_same_bytes(tmp_path: Path, opened: str) -> None:
    path = write_images(tmp_path / "a.h5", [random_image(seed, 1 + seed % 4, 64) for seed in range(100)])
    wanted = digest(RegionStore(path), 3)
    store = RegionStore(path)
    if opened == "before forking":
        assert len(store) == 100
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(READERS, timeout=60), context.SimpleQueue()
    readers = [context.Process(target=read_together, args=(store, barrier, results)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0] * READERS
    assert {results.get() for _ in readers} == {wanted}


def test_a_lock_of_someone_else_is_no_matter(tmp_path: Path) -> None:
    """HDF5 locks what it opens unless told not to; on a network disk that fails, as it would here."""
    path = write_images(tmp_path / "a.h5", [random_image(0, 3)])
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert RegionStore(path).read(np.array([0])).counts.tolist() == [3]
    finally:
        os.close(fd)


WORKER = """
import json, sys
import psutil, torch
from torch.utils.data import Dataset
from lxmert_fast.data.batches import Batch, BatchKey, EpochBatches, make_loader
from lxmert_fast.data.regions import RegionStore

class Reader(Dataset):
    def __init__(self, path):
        self.store = RegionStore(path)
        self.store.row(self.store.image_ids[0])

    def __getitem__(self, key):
        regions = self.store.read(key.rows)
        names = [self.store.image_ids[row] for row in key.rows]
        memory = psutil.Process().memory_full_info()
        features = torch.from_numpy(regions.features)
        return Batch({"features": features}, names, {"uss": memory.uss, "rss": memory.rss})

for path in sys.argv[1:]:
    reader = Reader(path)
    loader = make_loader(reader, EpochBatches(len(reader.store), 32, seed=0), num_workers=1)
    found = [batch.extras for batch, _ in zip(loader, range(40))]
    print(json.dumps([{name: batch[name] for name in ("uss", "rss")} for batch in found]))
    del loader
"""


def test_a_worker_stays_small_however_large_the_file(tmp_path: Path) -> None:
    """100 GB that lie nowhere: all but three images are holes.

    USS, the pages that a worker has alone, is what one worker more costs; RSS also counts the libraries and
    what it inherited from its parent, which all workers share. RSS is never the smaller, and stays below
    300 MB; a file a hundred times as large costs 33 bytes an image, its id twice and 4 bytes, and neither
    grows with what was read. Of batches a worker holds the one it builds and the two that a loader has it
    build ahead, each as an array and as shared memory.
    """
    real = [random_image(seed, 36, 2048) for seed in range(3)]
    images = 100 * 1000**3 // real[0].features.nbytes
    small = sparse_file(tmp_path / "small.h5", images // 100, real)
    large = sparse_file(tmp_path / "large.h5", images, real)
    assert large.stat().st_size > 100e9
    assert large.stat().st_blocks * 512 < 50e6
    with RegionStore(large) as store:
        rows = store.rows(image.image_id for image in real)
        assert rows.tolist() == [0, (images - 1) // 2, images - 1]
        np.testing.assert_array_equal(store.read(rows).features, [image.features for image in real])
        assert list(store.read(rows + np.array([1, 1, -1])).features.any((1, 2))) == [False] * 3

    run = subprocess.run(
        [sys.executable, "-c", WORKER, small, large],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    of_small, of_large = (json.loads(line) for line in run.stdout.splitlines())
    assert len(of_large) == 40
    assert max(batch["rss"] for batch in of_large) < 300e6
    batch = 32 * real[0].features.nbytes
    an_image = 33 + 2 * len("COCO_train2014_000000000000") + 4
    assert of_large[-1]["rss"] - of_small[-1]["rss"] < images * an_image + 6 * batch
    for name in ("rss", "uss"):
        assert of_large[-1][name] < of_large[1][name] + 6 * batch
