"""NLVR2 in small: sets of four pairs of images with two sentences each, and made-up regions for real rows."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from region_files import random_image, write_images
from small_data import sentence

from lxmert_fast.data.regions import RegionStore


def pair_entries(
    sets: int, split: str = "train", *, labelled: bool = True, seed: int = 0
) -> list[dict[str, Any]]:
    """Eight examples a set in the original's form, of w0 to w94; labels in turn."""
    rng = np.random.default_rng(seed)
    entries = []
    for number in range(sets):
        for which in range(2):
            said = sentence(rng)
            for pair in range(4):
                stem = f"{split}-{number}-{pair}"
                entries.append(
                    {
                        "identifier": f"{stem}-{which}",
                        "img0": f"{stem}-img0",
                        "img1": f"{stem}-img1",
                        **({"label": (number + which + pair) % 2} if labelled else {}),
                        "sent": said,
                        "uid": f"nlvr2_{split}_{len(entries)}",
                    }
                )
    return entries


def regions_of(
    path: Path, entries: list[dict[str, Any]], features: int = 4, bright: Container[str] = ()
) -> RegionStore:
    """Two or three boxes for every image that the entries name; features of the bright ones are larger."""
    names = sorted({entry[key] for entry in entries for key in ("img0", "img1")})
    images = [
        replace(random_image(row, 2 + row % 2, features), image_id=name) for row, name in enumerate(names)
    ]
    images = [
        replace(image, features=image.features + np.float32(2)) if image.image_id in bright else image
        for image in images
    ]
    return RegionStore(write_images(path, images))


def official_lines(path: Path, rows: list[Any]) -> Path:
    """A file with a JSON value a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
