"""The region file: one HDF5 file whose raw bytes are written once and never moved.

Root attributes: `format`, `format_version`, `feature_size`, `num_objects`, `num_attributes` (numbers of
object and attribute classes), `source` (what the regions were made from, in words), `fingerprint` (of that
source: a writer that resumes compares it) and whatever the maker adds. Datasets, for I images with N boxes
in all, image i owning boxes `offsets[i]` to `offsets[i + 1]`:

    features                (N, F)   float16 or float32
    boxes                   (N, 4)   float32, (x1, y1, x2, y2) in pixels
    object_ids              (N,)     int32      attribute_ids          (N,)  int32
    object_confidences      (N,)     float32    attribute_confidences  (N,)  float32
    offsets                 (I + 1,) int64
    sizes                   (I, 2)   int64, (width, height) in pixels
    image_ids               (I,)     fixed-length UTF-8
    checksums               (I,)     uint32, CRC-32 of the image's bytes (`checksum`)
    marks                   (I,)     uint8, one of `Mark`

Every dataset is contiguous and allocated when the file is created. That costs a first pass over the source to
count boxes, and buys three things: all HDF5 metadata is on disk before the first image, so a writer that is
killed leaves a valid file in which some images are unmarked; the disk space is reserved before the work
starts; and a reader takes an image with one `pread` a dataset, with no HDF5 call, no lock, no chunk cache and
nothing that breaks when a data loader forks. Whether a file is complete follows from the marks: a second
record of it, an attribute say, could disagree with them.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMAT = "lxmert-fast regions"
FORMAT_VERSION = 1

#: Box datasets besides `features`, whose type the file chooses: name, type, numbers a box.
SMALL_COLUMNS: dict[str, tuple[np.dtype, int]] = {
    "boxes": (np.dtype("<f4"), 4),
    "object_ids": (np.dtype("<i4"), 1),
    "object_confidences": (np.dtype("<f4"), 1),
    "attribute_ids": (np.dtype("<i4"), 1),
    "attribute_confidences": (np.dtype("<f4"), 1),
}
BOX_COLUMNS = ("features", *SMALL_COLUMNS)
FEATURE_DTYPES = (np.dtype("<f2"), np.dtype("<f4"))

#: The original asserts that normalised boxes leave the unit square by no more than this.
BOX_TOLERANCE = 1e-5
CONFIDENCE_TOLERANCE = 1e-5
#: Widths and heights up to here are exact in float32, the type boxes are normalised in.
LARGEST_SIDE = 2**24


class Mark(enum.IntEnum):
    """What a region file knows of an image: not yet written, written, or refused as bad input."""

    PENDING = 0
    WRITTEN = 1
    REJECTED = 2


@dataclass(frozen=True)
class ImageRegions:
    """The O regions of one image as a detector gives them: boxes in pixels, nothing padded.

    features (O, F) float16 or float32; boxes (O, 4) float32 (x1, y1, x2, y2) in pixels; object_ids and
    attribute_ids (O,) integers; object_confidences and attribute_confidences (O,) float32 in [0, 1].
    """

    image_id: str
    width: int
    height: int
    features: np.ndarray
    boxes: np.ndarray
    object_ids: np.ndarray
    object_confidences: np.ndarray
    attribute_ids: np.ndarray
    attribute_confidences: np.ndarray


def checksum(image_id: str, columns: Iterable[np.ndarray], size: np.ndarray) -> int:
    """CRC-32 of an image: its id, its columns in the order of `BOX_COLUMNS`, its size, all as stored."""
    value = zlib.crc32(image_id.encode())
    for column in (*columns, size):
        # An empty array has no view as bytes, and adds nothing.
        if column.size:
            value = zlib.crc32(np.ascontiguousarray(column).data.cast("B"), value)
    return value


def _first(bad: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def find_fault(
    image: ImageRegions,
    *,
    num_objects: int,
    num_attributes: int,
    names: Mapping[str, str] | None = None,
) -> str | None:
    """The first thing wrong with an image's values, as "column: found, wanted", or None.

    Sizes must be positive, features finite, boxes finite, ordered and inside the image to the original's
    1e-5, ids inside their class range, confidences in [0, 1]. `names` renames columns in the message.
    """

    def name(column: str) -> str:
        return (names or {}).get(column, column)

    for side, pixels in (("width", image.width), ("height", image.height)):
        if not 1 <= pixels <= LARGEST_SIDE:
            return f"{name(side)}: found {pixels} pixels, wanted 1 to {LARGEST_SIDE}"
    finite = np.isfinite(image.features)
    if not finite.all():
        box, dimension = _first(~finite)
        found = image.features[box, dimension]
        return f"{name('features')}: found {found} in box {box}, dimension {dimension}, wanted finite numbers"

    finite = np.isfinite(image.boxes)
    if not finite.all():
        box, side_index = _first(~finite)
        return f"{name('boxes')}: found {image.boxes[box, side_index]} in box {box}, wanted finite numbers"
    limits = np.array([image.width, image.height] * 2, np.float32)
    normalised = image.boxes / limits
    outside = ~((normalised > -BOX_TOLERANCE) & (normalised < 1 + BOX_TOLERANCE))
    if outside.any():
        box, _ = _first(outside)
        return (
            f"{name('boxes')}: found box {box} at {image.boxes[box].tolist()}, "
            f"wanted it inside the {image.width} x {image.height} image"
        )
    reversed_ = (image.boxes[:, 2:] < image.boxes[:, :2]).any(axis=1)
    if reversed_.any():
        (box,) = _first(reversed_)
        return (
            f"{name('boxes')}: found box {box} at {image.boxes[box].tolist()}, "
            "wanted (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2"
        )

    for column, ids, classes in (
        ("object_ids", image.object_ids, num_objects),
        ("attribute_ids", image.attribute_ids, num_attributes),
    ):
        outside = (ids < 0) | (ids >= classes)
        if outside.any():
            (box,) = _first(outside)
            return f"{name(column)}: found class {ids[box]} in box {box}, wanted 0 to {classes - 1}"
    for column, confidences in (
        ("object_confidences", image.object_confidences),
        ("attribute_confidences", image.attribute_confidences),
    ):
        inside = (confidences >= -CONFIDENCE_TOLERANCE) & (confidences <= 1 + CONFIDENCE_TOLERANCE)
        if not inside.all():
            (box,) = _first(~inside)
            return f"{name(column)}: found {confidences[box]} in box {box}, wanted 0 to 1"
    return None
