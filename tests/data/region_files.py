"""Small region files and TSV rows for the tests of this room, and the original's way of reading a TSV."""

from __future__ import annotations

import base64
import csv
import io
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lxmert_fast.data import region_writer
from lxmert_fast.data.region_format import ImageRegions, Mark
from lxmert_fast.data.regions import RegionWriter
from lxmert_fast.data.tsv import COLUMNS

FIELDS = ("features", "boxes", "object_ids", "object_confidences", "attribute_ids", "attribute_confidences")


def real_lines(shared_data: Path) -> list[bytes]:
    """The rows of the real Faster R-CNN file, CRLF included."""
    return (shared_data / "rcnn_features/train2014_obj36.tsv").read_bytes().splitlines(keepends=True)


def cut_down(line: bytes, boxes: int = 3, features: int = 32) -> bytes:
    """A real row with its first `boxes` boxes and `features` feature dimensions only."""
    row = dict(zip(COLUMNS, line.rstrip(b"\r\n").split(b"\t"), strict=True))
    total = int(row["num_boxes"])
    for column, dtype in (
        ("objects_id", "<i8"),
        ("objects_conf", "<f4"),
        ("attrs_id", "<i8"),
        ("attrs_conf", "<f4"),
        ("boxes", "<f4"),
        ("features", "<f4"),
    ):
        values = np.frombuffer(base64.b64decode(row[column]), dtype).reshape(total, -1)[:boxes, :features]
        row[column] = base64.b64encode(values.tobytes())
    row["num_boxes"] = str(boxes).encode()
    return b"\t".join(row[column] for column in COLUMNS) + b"\r\n"


def with_column(line: bytes, column: str, text: bytes) -> bytes:
    fields = line.rstrip(b"\r\n").split(b"\t")
    fields[COLUMNS.index(column)] = text
    return b"\t".join(fields) + b"\r\n"


def encoded(values: Any, dtype: str) -> bytes:
    return base64.b64encode(np.asarray(values, dtype).tobytes())


def as_the_original_reads(text: bytes) -> list[ImageRegions]:
    """A TSV through `csv`, as the original's loader takes it."""
    csv.field_size_limit(sys.maxsize)
    stream = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8")
    images = []
    for row in csv.DictReader(stream, COLUMNS, delimiter="\t"):
        boxes = int(row["num_boxes"])

        def array(column: str, dtype: Any, *shape: int, row: dict = row) -> np.ndarray:
            return np.frombuffer(base64.b64decode(row[column]), dtype).reshape(shape)

        images.append(
            ImageRegions(
                image_id=row["img_id"],
                width=int(row["img_w"]),
                height=int(row["img_h"]),
                features=array("features", np.float32, boxes, -1),
                boxes=array("boxes", np.float32, boxes, 4),
                object_ids=array("objects_id", np.int64, boxes),
                object_confidences=array("objects_conf", np.float32, boxes),
                attribute_ids=array("attrs_id", np.int64, boxes),
                attribute_confidences=array("attrs_conf", np.float32, boxes),
            )
        )
    return images


def assert_same_image(found: ImageRegions, wanted: ImageRegions) -> None:
    """Equal to the last bit."""
    assert (found.image_id, found.width, found.height) == (wanted.image_id, wanted.width, wanted.height)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def random_image(seed: int, boxes: int, features: int = 8, dtype: Any = np.float32) -> ImageRegions:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), axis=1).reshape(boxes, 4)
    width, height = rng.integers(50, 200, 2).tolist()
    return ImageRegions(
        image_id=f"image-{seed:04d}",
        width=width,
        height=height,
        features=rng.normal(size=(boxes, features)).astype(dtype),
        boxes=(corners * [width, height, width, height]).astype(np.float32),
        object_ids=rng.integers(0, 50, boxes),
        object_confidences=rng.uniform(0, 1, boxes).astype(np.float32),
        attribute_ids=rng.integers(0, 20, boxes),
        attribute_confidences=rng.uniform(0, 1, boxes).astype(np.float32),
    )


def new_writer(path: Path, images: list[ImageRegions], **options: Any) -> RegionWriter:
    settings: dict[str, Any] = {
        "feature_size": images[0].features.shape[1],
        "dtype": images[0].features.dtype,
        "num_objects": 50,
        "num_attributes": 20,
        "source": "a test",
        "fingerprint": "1",
    }
    counts = np.array([len(image.boxes) for image in images])
    return RegionWriter(path, [image.image_id for image in images], counts, **settings | options)


def write_images(path: Path, images: list[ImageRegions], **options: Any) -> Path:
    with new_writer(path, images, **options) as writer:
        for row, image in enumerate(images):
            writer.write(row, image)
    return path


def sparse_file(path: Path, images: int, real: list[ImageRegions]) -> Path:
    """A region file of `images` images, of which the `real` ones, spread over it, take space on disk.

    All have as many boxes as the first; the others are zeros, which the file system makes up when asked.
    """

    def truncated(place: Path, size: int) -> None:
        with open(place, "ab") as file:
            file.truncate(max(size, place.stat().st_size))

    rows = np.linspace(0, images - 1, len(real)).astype(int).tolist()
    ids = [f"COCO_train2014_{row:012d}" for row in range(images)]
    for row, image in zip(rows, real, strict=True):
        ids[row] = image.image_id
    boxes, features = real[0].features.shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region_writer, "_reserve", truncated)
        writer = RegionWriter(
            path,
            ids,
            np.full(images, boxes),
            feature_size=features,
            dtype=real[0].features.dtype,
            num_objects=50,
            num_attributes=20,
            source="holes",
            fingerprint="1",
        )
    for row, image in zip(rows, real, strict=True):
        writer.write(row, image)
    writer.close()
    with h5py.File(writer.partial, "r+") as file:
        sizes = file["sizes"][...]
        sizes[sizes == 0] = 1
        file["sizes"][...] = sizes
        file["marks"][...] = np.full(images, Mark.WRITTEN, np.uint8)
    return writer.partial.rename(path)
