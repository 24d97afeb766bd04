"""A small vocabulary, region file and aggregated file whose every value is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from region_files import write_images

from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.data.regions import RegionStore
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder

WORDS = [f"w{number}" for number in range(95)]


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def small_encoder(folder: Path, max_length: int = 20) -> TextEncoder:
    """100 tokens: five special ones and w0 to w94, which are ids 5 to 99."""
    path = folder / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n", encoding="utf-8")
    return TextEncoder(path, max_length)


def known_store(
    folder: Path, counts: list[int], name: str = "regions.h5", dtype: Any = np.float16
) -> RegionStore:
    """Image "i<k>" is row k; the feature of its box o is [k + 1, o + 1, 1, 1]."""
    images = []
    for row, count in enumerate(counts):
        features = np.ones((count, 4), dtype)
        features[:, 0] = row + 1
        features[:, 1] = np.arange(1, count + 1)
        images.append(
            ImageRegions(
                image_id=f"i{row}",
                width=100,
                height=50,
                features=features,
                boxes=np.tile(np.array([10, 5, 60, 45], np.float32), (count, 1)),
                object_ids=np.arange(count) % 50,
                object_confidences=np.full(count, 0.5, np.float32),
                attribute_ids=np.arange(count) % 20,
                attribute_confidences=np.full(count, 0.25, np.float32),
            )
        )
    return RegionStore(write_images(folder / name, images))


def sentence(rng: np.random.Generator, low: int = 3, high: int = 10) -> str:
    return " ".join(WORDS[word] for word in rng.integers(len(WORDS), size=rng.integers(low, high)))


def aggregated(images: int, captions: int, questions: int, seed: int = 0) -> list[dict[str, Any]]:
    """Images i0, i1, ... with random captions and questions; answers a0 (score 1) and a1 (score 0.25)."""
    rng = np.random.default_rng(seed)
    return [
        {
            "img_id": f"i{image}",
            "sentf": {
                "mscoco": [sentence(rng) for _ in range(captions)],
                "vqa": [sentence(rng) for _ in range(questions)],
            },
            "labelf": {"vqa": [{"a0": 1.0, "a1": 0.25} for _ in range(questions)]},
        }
        for image in range(images)
    ]


def within(found: int, trials: int, rate: float) -> bool:
    """Whether a binomial count lies inside the two-sided interval that chance leaves once in a million."""
    return abs(found - trials * rate) <= 4.9 * np.sqrt(trials * rate * (1 - rate)) + 0.5
