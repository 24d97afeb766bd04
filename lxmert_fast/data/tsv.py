"""Read the original's region TSV and convert it to a region file.

One row an image, no header, ten tab-separated columns (`tools/lxmert_data` of py-bottom-up-attention and the
`fieldnames` of the original's `utils.py`): `img_id`, `img_h`, `img_w`, `objects_id` int64, `objects_conf`
float32, `attrs_id` int64, `attrs_conf` float32, `num_boxes`, `boxes` float32 (O, 4), `features` float32
(O, F); arrays are little-endian base64. Rows end in CRLF or LF.

A file is read twice. `TsvIndex.scan` counts rows and boxes, finds duplicate ids and malformed rows and takes
a checksum of the whole text, at the speed of the disk and without decoding; the second pass decodes. So the
output has its exact size before work starts, a resumed conversion knows that its source is unchanged, and
memory holds one row and about 150 bytes an image whatever the file's size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lxmert_fast.data.region_format import ImageRegions, find_fault
from lxmert_fast.data.region_writer import RegionWriter, require_writable
from lxmert_fast.errors import InputError

COLUMNS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)
#: Class counts of the Visual Genome detector that the original uses.
NUM_OBJECTS, NUM_ATTRIBUTES = 1600, 400

#: A row of 1,000 boxes with 2,048 features is 11 MB; what is longer is no TSV, and would fill the memory.
_LONGEST_ROW = 1 << 26
_MOST_BOXES = 10_000
#: The default of a few kilobytes would fetch a row of 395 kB in a hundred pieces.
_BUFFER = 1 << 22
_OUR_NAMES = {
    "width": "img_w",
    "height": "img_h",
    "object_ids": "objects_id",
    "object_confidences": "objects_conf",
    "attribute_ids": "attrs_id",
    "attribute_confidences": "attrs_conf",
}
_ARRAYS: dict[str, np.dtype] = {
    "objects_id": np.dtype("<i8"),
    "objects_conf": np.dtype("<f4"),
    "attrs_id": np.dtype("<i8"),
    "attrs_conf": np.dtype("<f4"),
    "boxes": np.dtype("<f4"),
    "features": np.dtype("<f4"),
}

#: Called with every bad row's error; without one the first bad row stops the work.
Report = Callable[[InputError], None]


class Row(NamedTuple):
    """Where a row lies: its line number from 1, its first byte, its image id and its number of boxes."""

    number: int
    start: int
    image_id: str
    boxes: int


@dataclass(frozen=True)
class TsvIndex:
    """What one pass over a TSV tells: its well-formed rows, F, and a fingerprint of the whole text."""

    path: Path
    rows: tuple[Row, ...]
    feature_size: int
    fingerprint: str

    @classmethod
    def scan(
        cls,
        path: str | Path,
        *,
        feature_size: int | None = None,
        report: Report | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> TsvIndex:
        """Indexes a TSV without decoding it.

        Args:
            feature_size: F; None takes what most rows have.
            report: called with each bad row's error, and the row is left out; None raises the first.
            advance: called with the bytes of each row as they are read.

        Raises:
            InputError: naming the file, the row and the column; also for a file that is missing, empty, or
                without one well-formed row (whatever `report` is).
        """
        path = Path(path)
        candidates: list[Row] = []
        sizes = array("q")
        first_row: dict[str, int] = {}
        text_checksum = 0
        for number, start, line in _lines(path):
            text_checksum = zlib.crc32(line, text_checksum)
            try:
                row, size = _outline(path, number, start, line)
                if row.image_id in first_row:
                    raise InputError(
                        f"{path}: row {number}, image {row.image_id!r}, column img_id: found the id of row "
                        f"{first_row[row.image_id]} again, wanted distinct ids"
                    )
            except InputError as error:
                if report is None:
                    raise
                report(error)
            else:
                first_row[row.image_id] = number
                candidates.append(row)
                sizes.append(size)
            advance(len(line))
        if not candidates:
            raise InputError(f"{path}: found no well-formed row, wanted the ten columns {' '.join(COLUMNS)}")
        if feature_size is None:
            ((feature_size, _),) = Counter(sizes).most_common(1)
        rows = []
        for row, size in zip(candidates, sizes, strict=True):
            if size == feature_size:
                rows.append(row)
                continue
            fault = InputError(
                f"{path}: row {row.number}, image {row.image_id!r}, column features: found {size} numbers "
                f"a box, wanted {feature_size}{_cut_off(line) if row.number == number else ''}"
            )
            if report is None:
                raise fault
            report(fault)
        if not rows:
            raise InputError(f"{path}: found no row with {feature_size} features a box")
        digest = hashlib.sha256(f"{path.stat().st_size} {text_checksum}".encode())
        for row in rows:
            digest.update(repr(tuple(row)).encode())
        return cls(path, tuple(rows), feature_size, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.rows)

    def decode(
        self,
        places: np.ndarray | None = None,
        *,
        dtype: Any = np.float32,
        num_objects: int = NUM_OBJECTS,
        num_attributes: int = NUM_ATTRIBUTES,
    ) -> Iterator[tuple[int, ImageRegions | InputError]]:
        """Yields (place in `rows`, its regions or what is wrong with it) for `places`, default all, in order.

        Features come in `dtype`, rounded to nearest even; one too large for float16 is an error.
        """
        with self.path.open("rb", buffering=_BUFFER) as file:
            for place in range(len(self.rows)) if places is None else places.tolist():
                row = self.rows[place]
                file.seek(row.start)
                line = file.readline(_LONGEST_ROW)
                try:
                    yield (
                        place,
                        _decode(
                            self.path,
                            row,
                            line,
                            self.feature_size,
                            np.dtype(dtype),
                            num_objects,
                            num_attributes,
                        ),
                    )
                except InputError as error:
                    yield place, error


def read(path: str | Path, **options: Any) -> Iterator[ImageRegions]:
    """The images of a TSV in order, features in float32; raises `InputError` at the first bad row.

    `options` are those of `TsvIndex.decode`.
    """
    for _, image in TsvIndex.scan(path).decode(**options):
        if isinstance(image, InputError):
            raise image
        yield image


def convert(
    source: str | Path | TsvIndex,
    out: str | Path,
    dtype: Any = np.float16,
    *,
    num_objects: int = NUM_OBJECTS,
    num_attributes: int = NUM_ATTRIBUTES,
    report: Report | None = None,
    overwrite: bool = False,
    sync_every: int = 256,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Converts a TSV to the region file `out`; run again after a kill, it resumes.

    Args:
        source: the TSV or its index. dtype: float32 (exact) or float16 (half the bytes, rounded to 11 bits).
        num_objects, num_attributes: object and attribute classes; ids must be below.
        report: called with each bad row's error, and the row is left out; None stops at the first.
        overwrite: replace `out` if it exists. sync_every: images between two syncs to disk.
        advance: called with the number of rows done, those of an earlier run first.

    Returns:
        Images written (by this run and those it resumed) and rows of the index left out.

    Raises:
        InputError: as `TsvIndex.scan` and `RegionWriter` do, and at the first bad row without `report`; what
            was written is kept and resumed from.
    """
    # A scan may take minutes: what can fail at once fails before it.
    require_writable(out, overwrite)
    index = source if isinstance(source, TsvIndex) else TsvIndex.scan(source, report=report)
    counts = np.array([row.boxes for row in index.rows], np.int64)
    rejected = 0
    with RegionWriter(
        out,
        [row.image_id for row in index.rows],
        counts,
        feature_size=index.feature_size,
        dtype=dtype,
        num_objects=num_objects,
        num_attributes=num_attributes,
        source=f"converted from {index.path.name}, the original's ten-column TSV",
        fingerprint=index.fingerprint,
        overwrite=overwrite,
        sync_every=sync_every,
    ) as writer:
        pending = writer.pending
        advance(len(index) - len(pending))
        for place, image in index.decode(
            pending, dtype=dtype, num_objects=num_objects, num_attributes=num_attributes
        ):
            if isinstance(image, InputError):
                if report is None:
                    raise image
                report(image)
                writer.reject(place)
                rejected += 1
            else:
                writer.write(place, image)
            advance(1)
        if rejected == len(index):
            raise InputError(f"{index.path}: found no good row in {len(index)}")
    return len(index) - rejected, rejected


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, first byte, line with its ending) of each line."""
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    start = 0
    with path.open("rb", buffering=_BUFFER) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_ROW), b""), 1):
            if len(line) == _LONGEST_ROW:
                raise InputError(
                    f"{path}: row {number}: found over {_LONGEST_ROW:,} bytes without a line end"
                )
            yield number, start, line
            start += len(line)
    if not start:
        raise InputError(f"{path}: the file is empty, wanted rows of {len(COLUMNS)} columns")


def _fields(place: str, line: bytes) -> list[bytes]:
    fields = line.rstrip(b"\r\n").split(b"\t")
    if len(fields) != len(COLUMNS):
        raise InputError(
            f"{place}: found {len(fields)} columns, wanted {len(COLUMNS)} "
            f"({' '.join(COLUMNS)}){_cut_off(line)}"
        )
    return fields


def _cut_off(line: bytes) -> str:
    return "" if line.endswith(b"\n") else " (the row has no line end: the file was cut off here?)"


def _outline(path: Path, number: int, start: int, line: bytes) -> tuple[Row, int]:
    """A row's id, box count and feature size, from lengths alone."""
    place = f"{path}: row {number}"
    fields = _fields(place, line)
    try:
        image_id = fields[0].decode()
    except UnicodeDecodeError:
        raise InputError(f"{place}, column img_id: found bytes {fields[0][:40]!r}, wanted UTF-8") from None
    # csv, which the original reads with, would take a quotation mark as the start of a quoted field.
    if not image_id or '"' in image_id or not image_id.isprintable():
        raise InputError(
            f"{place}, column img_id: found {image_id[:80]!r}, wanted printable text without quotes"
        )
    place = f"{place}, image {image_id!r}"
    boxes = _integer(place, "num_boxes", fields[7])
    if not 1 <= boxes <= _MOST_BOXES:
        raise InputError(f"{place}, column num_boxes: found {boxes}, wanted 1 to {_MOST_BOXES}")
    size, rest = divmod(_decoded_length(fields[9]), 4 * boxes)
    if rest or not size:
        raise InputError(
            f"{place}, column features: found {_decoded_length(fields[9]):,} bytes, wanted a multiple of "
            f"{4 * boxes} (float32 for {boxes} boxes){_cut_off(line)}"
        )
    return Row(number, start, image_id, boxes), size


def _decoded_length(text: bytes) -> int:
    return len(text) // 4 * 3 - (len(text) - len(text.rstrip(b"=")))


def _integer(place: str, column: str, text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:
        raise InputError(
            f"{place}, column {column}: found {text[:40].decode(errors='replace')!r}, wanted an integer"
        )
    return int(text)


def _array(place: str, column: str, text: bytes, shape: tuple[int, ...], cut_off: str) -> np.ndarray:
    """Decodes one base64 column; the array is read-only and shares the decoded bytes."""
    dtype = _ARRAYS[column]
    wanted = dtype.itemsize * int(np.prod(shape))
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"{place}, column {column}: found broken base64 ({error}), wanted {wanted:,} bytes{cut_off}"
        ) from None
    if len(data) != wanted:
        numbers = " x ".join(map(str, shape))
        raise InputError(
            f"{place}, column {column}: found {len(data):,} bytes, wanted {wanted:,} "
            f"({numbers} {dtype.name}){cut_off}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _decode(
    path: Path,
    row: Row,
    line: bytes,
    feature_size: int,
    dtype: np.dtype,
    num_objects: int,
    num_attributes: int,
) -> ImageRegions:
    place = f"{path}: row {row.number}, image {row.image_id!r}"
    fields = dict(zip(COLUMNS, _fields(place, line), strict=True))
    cut_off = _cut_off(line)
    shapes = {"boxes": (row.boxes, 4), "features": (row.boxes, feature_size)}
    arrays = {
        column: _array(place, column, fields[column], shapes.get(column, (row.boxes,)), cut_off)
        for column in _ARRAYS
    }
    image = ImageRegions(
        image_id=row.image_id,
        width=_integer(place, "img_w", fields["img_w"]),
        height=_integer(place, "img_h", fields["img_h"]),
        features=arrays["features"],
        boxes=arrays["boxes"],
        object_ids=arrays["objects_id"],
        object_confidences=arrays["objects_conf"],
        attribute_ids=arrays["attrs_id"],
        attribute_confidences=arrays["attrs_conf"],
    )
    fault = find_fault(image, num_objects=num_objects, num_attributes=num_attributes, names=_OUR_NAMES)
    if fault:
        raise InputError(f"{place}, column {fault}")
    return _with_features_as(image, dtype, place)


def _with_features_as(image: ImageRegions, dtype: np.dtype, place: str) -> ImageRegions:
    with np.errstate(over="ignore"):
        features = image.features.astype(dtype, copy=False)
    overflow = ~np.isfinite(features)
    if overflow.any():
        box, dimension = (int(i) for i in np.argwhere(overflow)[0])
        raise InputError(
            f"{place}, column features: found {image.features[box, dimension]} in box {box}, "
            f"dimension {dimension}, wanted at most {np.finfo(dtype).max} for {dtype.name} (float32 holds it)"
        )
    return replace(image, features=features)
