"""Random files of real sizes: regions, a vocabulary, sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lxmert_fast.data.json_writing import write_entries
from lxmert_fast.data.region_format import ImageRegions
from lxmert_fast.data.regions import RegionStore, RegionWriter
from lxmert_fast.data.text import SPECIAL_TOKENS, TextEncoder

OBJECTS, FEATURES = 36, 2048
WORDS = [f"word{number}" for number in range(30522 - len(SPECIAL_TOKENS))]
ANSWERS = [*(f"a{number}" for number in range(3000)), "yes"]


def write_regions(path: Path, images: int) -> RegionStore:
    """36 regions of 2,048 float16 an image: 148 kB each."""
    rng = np.random.default_rng(0)
    features = rng.random((64, OBJECTS, FEATURES), np.float32).astype(np.float16)
    corners = np.sort(rng.random((OBJECTS, 2, 2), np.float32), axis=1).reshape(OBJECTS, 4)
    ids = [f"image{number}" for number in range(images)]
    with RegionWriter(
        path,
        ids,
        np.full(images, OBJECTS),
        feature_size=FEATURES,
        num_objects=1600,
        num_attributes=400,
        source="random numbers",
        fingerprint="benchmark",
    ) as writer:
        for row, image_id in enumerate(ids):
            image = ImageRegions(
                image_id=image_id,
                width=640,
                height=480,
                features=features[row % 64],
                boxes=corners * np.array([640, 480, 640, 480], np.float32),
                object_ids=rng.integers(1600, size=OBJECTS),
                object_confidences=rng.random(OBJECTS, np.float32),
                attribute_ids=rng.integers(400, size=OBJECTS),
                attribute_confidences=rng.random(OBJECTS, np.float32),
            )
            writer.write(row, image)
    return RegionStore(path)


def write_vocabulary(path: Path) -> TextEncoder:
    """As many tokens as BERT has."""
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS]) + "\n", encoding="utf-8")
    return TextEncoder(path)


def write_examples(path: Path, image_ids: Sequence[str], sentences: int) -> Path:
    """So many sentences an image, of 6 to 16 word pieces, half of them questions with two `ANSWERS`."""
    rng = np.random.default_rng(1)

    def sentence() -> str:
        return " ".join(WORDS[word] for word in rng.integers(len(WORDS), size=rng.integers(6, 17)))

    entries = [
        {
            "img_id": image_id,
            "sentf": {name: [sentence() for _ in range(sentences // 2)] for name in ("mscoco", "vqa")},
            "labelf": {"vqa": [{f"a{rng.integers(3000)}": 1.0, "yes": 0.3} for _ in range(sentences // 2)]},
        }
        for image_id in image_ids
    ]
    write_entries(path, entries)
    return path
