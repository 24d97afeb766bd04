"""The way of an image's regions into a batch: the original's, all of a TSV in memory, and the region store.

    python -m lxmert_fast.bench.data_path tsv|store FILE SAMPLE

prints one JSON object: seconds until the first batch is there, what the process then holds in memory, and
examples a second. Each way runs in its own process, so that the memory is its own. The TSV way is the
original's: every row decoded from base64 into a dict of numpy arrays, boxes scaled and arrays stacked for
each batch. Both files come from `write_files`.
"""

from __future__ import annotations

import base64
import csv
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lxmert_fast.bench.machine import resident_bytes
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.tsv import COLUMNS, convert

OBJECTS = 36
BATCH = 64

Build = Callable[[np.ndarray], tuple[torch.Tensor, torch.Tensor]]
"""Rows (B,) to features (B, 36, F) and boxes (B, 36, 4) in [0, 1]."""


def write_files(folder: Path, images: int, features: int = 2048) -> dict[str, Path]:
    """Random regions as "tsv" (395 kB an image with 2,048 features), "float32" and "float16" region files."""
    tsv = folder / "regions.tsv"
    with tsv.open("w", encoding="ascii", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        for row in _random_rows(images, features):
            writer.writerow(row)
    files = {"tsv": tsv}
    for dtype in ("float32", "float16"):
        files[dtype] = folder / f"{dtype}.h5"
        convert(tsv, files[dtype], dtype)
    return files


def _random_rows(images: int, features: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)

    def text(array: np.ndarray) -> str:
        return base64.b64encode(array.tobytes()).decode("ascii")

    for image in range(images):
        corners = np.sort(rng.random((OBJECTS, 2, 2), np.float32), axis=1).reshape(OBJECTS, 4)
        yield {
            "img_id": f"image{image}",
            "img_h": 480,
            "img_w": 640,
            "objects_id": text(rng.integers(1600, size=OBJECTS)),
            "objects_conf": text(rng.random(OBJECTS, np.float32)),
            "attrs_id": text(rng.integers(400, size=OBJECTS)),
            "attrs_conf": text(rng.random(OBJECTS, np.float32)),
            "num_boxes": OBJECTS,
            "boxes": text(corners * np.array([640, 480, 640, 480], np.float32)),
            "features": text(rng.random((OBJECTS, features), np.float32)),
        }


def tsv_in_memory(path: Path) -> tuple[int, Build]:
    """Number of images and the batch builder of the original's way."""
    csv.field_size_limit(sys.maxsize)
    types = {"objects_id": np.int64, "objects_conf": np.float32, "attrs_id": np.int64}
    types |= {"attrs_conf": np.float32, "boxes": np.float32, "features": np.float32}
    rows: list[dict[str, Any]] = []
    with path.open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file, COLUMNS, delimiter="\t"):
            image: dict[str, Any] = dict(row)
            for name in ("img_h", "img_w", "num_boxes"):
                image[name] = int(image[name])
            for name, dtype in types.items():
                array = np.frombuffer(base64.b64decode(image[name]), dtype)
                image[name] = array.reshape(OBJECTS, -1) if name in ("boxes", "features") else array
            rows.append(image)

    def build(wanted: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        features, boxes = [], []
        for number in wanted:
            image = rows[number]
            scaled = image["boxes"].copy()
            scaled[:, (0, 2)] /= image["img_w"]
            scaled[:, (1, 3)] /= image["img_h"]
            features.append(torch.from_numpy(image["features"].copy()))
            boxes.append(torch.from_numpy(scaled))
        return torch.stack(features), torch.stack(boxes)

    return len(rows), build


def store_on_disk(path: Path) -> tuple[int, Build]:
    """The same of a region file."""
    store = RegionStore(path)

    def build(wanted: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        regions = store.read(wanted)
        return torch.from_numpy(regions.features), torch.from_numpy(regions.boxes)

    return len(store), build


WAYS: dict[str, Callable[[Path], tuple[int, Build]]] = {"tsv": tsv_in_memory, "store": store_on_disk}


def measure(way: str, path: Path, batches: int = 30, sample: Path | None = None) -> dict[str, Any]:
    """Open a file one way and build random batches of 64 images.

    Args:
        sample: where the first batch's tensors are saved, to be compared.

    Returns:
        images, open_seconds, held_bytes (growth of the process's memory while opening and building),
        examples_a_second (median batch).
    """
    before = resident_bytes()
    began = time.perf_counter()
    images, build = WAYS[way](path)
    first = build(np.arange(min(BATCH, images)))
    opened = time.perf_counter() - began
    if sample is not None:
        torch.save(first, sample)
    rng = np.random.default_rng(1)
    seconds = []
    for _ in range(batches):
        rows = rng.integers(images, size=BATCH)
        began = time.perf_counter()
        build(rows)
        seconds.append(time.perf_counter() - began)
    del first
    gc.collect()
    return {
        "images": images,
        "open_seconds": opened,
        "held_bytes": resident_bytes() - before,
        "examples_a_second": BATCH / float(np.median(seconds)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a loader's worker
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), sample=Path(sys.argv[3]))))
