"""Regions into batches: the original's way, a whole TSV decoded in memory, against the region store.

    pytest bench/test_data.py

Masking and collation are in test_loader.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lxmert_fast.bench.data_path import write_files

#: Enough to see what one image holds.
IMAGES = 256
WAYS = {"TSV in memory": ("tsv", "tsv"), "store, float32": ("store", "float32")}
WAYS |= {"store, float16": ("store", "float16")}


def test_regions(benchmark: BenchmarkFixture, tmp_path: Path, tiny: bool) -> None:
    """Every way gives the same first batch (float16: to its rounding); what a way takes is in its JSON."""
    files = write_files(tmp_path, 70 if tiny else IMAGES, 16 if tiny else 2048)
    rows: dict[str, dict[str, Any]] = {}
    first: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def every_way() -> None:
        for name, (way, file) in WAYS.items():
            sample = tmp_path / "first.pt"
            command = [sys.executable, "-m", "lxmert_fast.bench.data_path", way, files[file], sample]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
            rows[name] = json.loads(done.stdout)
            first[name] = torch.load(sample)

    benchmark.pedantic(every_way, rounds=1)
    features, boxes = first["TSV in memory"]
    for name, (found, found_boxes) in first.items():
        torch.testing.assert_close(found_boxes, boxes, rtol=1e-6, atol=1e-7)
        if found.dtype is torch.float16:
            torch.testing.assert_close(found.float(), features, rtol=2**-11, atol=1e-7)
        else:
            assert torch.equal(found, features), name
    benchmark.extra_info["data"] = rows
    for name, row in rows.items():
        held = row["held_bytes"] / row["images"] / 1e3
        print(f"{name}: {row['examples_a_second']:,.0f} examples a second, {held:,.0f} kB held an image")
    if not tiny:
        assert rows["store, float32"]["held_bytes"] < rows["TSV in memory"]["held_bytes"]
