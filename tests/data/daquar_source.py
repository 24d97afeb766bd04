"""A DAQUAR source folder of ten images: three training scenes and a test scene."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small_data import write_json

TRAIN = [f"image{number}" for number in (1, 2, 3, 6, 7, 10, 11)]
TEST = ["image4", "image5", "image8"]
REGIONS = 5


def daquar_questions() -> list[dict[str, Any]]:
    """Three questions an image: a thing, a number, and a set with one answer twice."""
    rows = []
    for number, image_id in enumerate([*TRAIN, *TEST]):
        asked = [
            ("what is on the wall ?", ["light_bulb" if number % 2 else "picture"]),
            ("how many chairs are there ?", [str(number % 3)]),
            ("what are the objects on the floor ?", ["bag", "shoe", "bag"]),
        ]
        for sentence, answers in asked:
            rows.append(
                {
                    "question_id": len(rows),
                    "image_id": image_id,
                    "split": "train" if image_id in TRAIN else "test",
                    "question": sentence,
                    "answers": answers,
                }
            )
    return rows


def daquar_features() -> dict[str, np.ndarray]:
    """The members of features.npz, images in another order than the lists'; two boxes, three cells each."""
    draw = np.random.default_rng(3)
    ids = np.array(sorted([*TRAIN, *TEST]))
    corners = draw.uniform(0, 0.5, (len(ids), REGIONS, 2))
    classes = np.full((len(ids), REGIONS), 80, np.uint8)
    classes[:, :2] = draw.integers(0, 80, (len(ids), 2))
    confidences = np.where(classes < 80, draw.uniform(0.1, 1, classes.shape), 0)
    return {
        "image_id": ids,
        "boxes": np.concatenate([corners, corners + 0.25], axis=-1).astype(np.float16),
        "features": draw.normal(size=(len(ids), REGIONS, 4)).astype(np.float16),
        "obj_id": classes,
        "obj_conf": confidences.astype(np.float16),
    }


def write_source(folder: Path, rows: Any = None, **members: np.ndarray | None) -> Path:
    """Write the four files; `members` replace those of features.npz, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "daquar_all.json", daquar_questions() if rows is None else rows)
    (folder / "train_images_list.txt").write_text("\n".join(TRAIN) + "\n")
    (folder / "test_images_list.txt").write_text("\n".join(TEST) + "\n")
    arrays = {name: array for name, array in (daquar_features() | members).items() if array is not None}
    np.savez(folder / "features.npz", **arrays)
    return folder
