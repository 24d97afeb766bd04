"""The regions of DAQUAR's photos: `features.npz` to a region file.

    image_id (I,) str
    boxes (I, R, 4) float16         (x1, y1, x2, y2) as shares of width and height
    features (I, R, F) float16      pooled values p of a CNN by principal components,
                                    (p - pca_mean) @ pca_V / scale; they are used as they are
    obj_id (I, R) uint8             0 to 79: a box of a detector of COCO's 80 classes, 80: a cell of a grid
    obj_conf (I, R) float16         the detector's confidence, 0 for a cell

In the project's file R is 36, 20 boxes and the cells of a 4 x 4 grid, and F is 256.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lxmert_fast.data.region_format import ImageRegions, find_fault
from lxmert_fast.data.region_writer import RegionWriter
from lxmert_fast.errors import InputError

FEATURES = "features.npz"
OBJECTS = 81
"""Classes: COCO's 80 and the cell of a grid."""
WIDTH, HEIGHT = 640, 480
"""Pixels of the photos (NYU-Depth-v2); the model sees shares of them."""
_MEMBERS = {"image_id": 1, "boxes": 3, "features": 3, "obj_id": 2, "obj_conf": 2}


def write_regions(source: Path, image_ids: Sequence[str], out: Path, *, overwrite: bool) -> int:
    """Write the regions of these images, in this order; returns how many there are.

    A region's feature is its F numbers and its class: OBJECTS numbers of which that of the class is the
    detector's confidence, 1 for a cell (F + 81 together). The object label is the class too; attributes have
    one class.

    Raises:
        InputError: a member of the file that is missing or of another shape or type, an image without
            regions, a value that is not finite or outside its range.
    """
    path = source / FEATURES
    arrays = _read_features(path)
    rows = {str(image_id): row for row, image_id in enumerate(arrays["image_id"])}
    if len(rows) != len(arrays["image_id"]):
        raise InputError(f"{path}: image_id: found an id twice, wanted distinct ones")
    if lost := [image_id for image_id in image_ids if image_id not in rows]:
        raise InputError(
            f"{path}: image_id: found no {lost[0]!r:.60} ({len(lost)} listed images have no regions)"
        )
    _, regions, size = arrays["features"].shape
    writer = RegionWriter(
        out,
        image_ids,
        np.full(len(image_ids), regions),
        feature_size=size + OBJECTS,
        num_objects=OBJECTS,
        num_attributes=1,
        source=f"DAQUAR, {FEATURES}: {size} principal components and the detector's class",
        fingerprint=hashlib.sha256(path.read_bytes()).hexdigest(),
        overwrite=overwrite,
    )
    with writer:
        for row in writer.pending.tolist():
            writer.write(row, _regions(path, arrays, rows[image_ids[row]]))
    return len(image_ids)


def _regions(path: Path, arrays: dict[str, np.ndarray], row: int) -> ImageRegions:
    classes = arrays["obj_id"][row].astype(np.int64)
    confidences = arrays["obj_conf"][row].astype(np.float32)
    none = np.zeros(len(classes))
    image = ImageRegions(
        str(arrays["image_id"][row]),
        WIDTH,
        HEIGHT,
        arrays["features"][row].astype(np.float32),
        arrays["boxes"][row].astype(np.float32) * np.array([WIDTH, HEIGHT] * 2, np.float32),
        classes,
        confidences,
        none.astype(np.int64),
        none.astype(np.float32),
    )
    names = {"object_ids": "obj_id", "object_confidences": "obj_conf"}
    if fault := find_fault(image, num_objects=OBJECTS, num_attributes=1, names=names):
        raise InputError(f"{path}: image {image.image_id!r:.60}: {fault}")
    one = np.zeros((len(classes), OBJECTS), np.float32)
    one[np.arange(len(classes)), classes] = np.where(classes == OBJECTS - 1, 1.0, confidences)
    features = np.concatenate([image.features, one], axis=1)
    return ImageRegions(**{**vars(image), "features": features})


def _read_features(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in _MEMBERS if name not in file]:
                raise InputError(f"{path}: found no member {missing[0]!r}, wanted {', '.join(_MEMBERS)}")
            arrays = {name: file[name] for name in _MEMBERS}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(f"{path}: cannot be read: {' '.join(str(reason).split())[:160]}") from None
    kinds = {"image_id": "U", "boxes": "f", "features": "f", "obj_id": "iu", "obj_conf": "f"}
    shape = arrays["features"].shape
    for name, array in arrays.items():
        numbers = (shape[-1] if name == "features" else 4,)
        if len(shape) != 3 or array.shape != (*shape[:2], *numbers)[: _MEMBERS[name]] or not array.size:
            found = ", ".join(f"{member} {value.shape}" for member, value in arrays.items())
            raise InputError(
                f"{path}: {name}: found shapes {found}, wanted image_id (I,), boxes (I, R, 4), "
                "features (I, R, F), obj_id (I, R), obj_conf (I, R)"
            )
        if array.dtype.kind not in kinds[name]:
            raise InputError(f"{path}: {name}: found type {array.dtype}, wanted {_type(kinds[name])}")
    return arrays


def _type(kinds: str) -> str:
    return {"U": "strings", "f": "floating-point numbers"}.get(kinds, "integers")
